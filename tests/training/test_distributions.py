"""Licences of distributions, as their metadata tells them."""

from email.message import Message

import pytest

from falaj.training.distributions import installed, licence_of, normalised


def metadata(**headers):
    told = Message()
    for name, values in headers.items():
        for value in values if isinstance(values, list) else [values]:
            told[name.replace("_", "-")] = value
    return told


@pytest.mark.parametrize(
    ("told", "licence", "spdx"),
    [
        ({"License_Expression": "MIT OR Apache-2.0", "License": "x"}, "MIT OR Apache-2.0", True),
        ({"Classifier": ["License :: OSI Approved :: MIT License"]}, "MIT", True),
        (
            {"Classifier": [
                "License :: OSI Approved :: MIT License",
                "License :: OSI Approved :: Apache Software License",
            ]},
            "Apache-2.0 AND MIT", True,
        ),
        ({"Classifier": ["License :: OSI Approved :: BSD License"]}, "BSD License", False),
        ({"License": "OLDAP-2.8"}, "OLDAP-2.8", False),
        ({"Classifier": ["License :: OSI Approved"], "License": "x" * 500}, "unknown", False),
        ({"Classifier": ["Topic :: Software"]}, "unknown", False),
    ],
)  # fmt: skip
def test_a_licence_is_an_expression_then_classifiers_then_a_short_text(told, licence, spdx):
    assert licence_of(metadata(**told)) == (licence, spdx)


def test_every_installed_distribution_is_named_once_with_its_purl():
    found = installed()
    assert len({one.name for one in found}) == len(found) > 50
    assert all(one.purl == f"pkg:pypi/{one.name}@{one.version}" for one in found)


def test_names_are_compared_as_pypi_does():
    assert normalised("Ruamel.YAML__clib") == "ruamel-yaml-clib"
