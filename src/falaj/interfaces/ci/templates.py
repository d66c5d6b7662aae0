"""Workflows for GitHub Actions, GitLab CI and Jenkins: lint, plan, gates, proposal, deployment.

Each is a text with a few places for the address, the account, the model and the endpoint. They run
commands of ``falaj`` and nothing else; a test holds each command against the command line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from falaj.kernel.errors import InvalidInput


@dataclass(frozen=True)
class Places:
    """What a workflow is made for."""

    address: str
    model: str
    endpoint: str
    definitions: str = "definitions"
    account: str = "ci"

    def filled(self, template: str) -> str:
        """A template with its places filled in.

        Raises:
            InvalidInput: a value has characters that a workflow or a shell would read.
        """
        for name, value in vars(self).items():
            if not re.fullmatch(r"[A-Za-z0-9._:/-]+", value):
                raise InvalidInput(
                    f"--{name} {value!r} cannot stand in a workflow.",
                    hint="Use letters, digits and . _ : / - alone.",
                )
            template = template.replace(f"<{name}>", value)
        return template


GITHUB = """\
# Made by `falaj ci init github`. It holds no secret: each job signs in by its own token (OIDC),
# which a rule of the setting ci.rules lets in as service:<account>.
name: falaj
on:
  pull_request:
  push:
    branches: [main]
  workflow_dispatch:
permissions:
  contents: read
  id-token: write
env:
  FALAJ_URL: <address>
  # FALAJ_CA: ci/falaj-ca.pem   # if its certificate is from the built-in authority
jobs:
  check:
    if: github.event_name == 'pull_request'
    runs-on: ubuntu-latest
    permissions:
      contents: read
      id-token: write
      pull-requests: write
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install falaj
      - run: falaj ci lint <definitions>
      - run: falaj login --ci -- falaj ci plan <definitions> --out plan.md
      - run: gh pr comment "$NUMBER" --edit-last --create-if-none --body-file plan.md
        env:
          GH_TOKEN: ${{ github.token }}
          NUMBER: ${{ github.event.pull_request.number }}
  propose:
    if: github.event_name == 'push'
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install falaj
      - run: falaj ci lint <definitions>
      - run: falaj login --ci -- falaj apply <definitions>
      - run: falaj login --ci -- <gates>
      - run: falaj login --ci -- falaj ci propose <model> --reason "commit $GITHUB_SHA"
  deploy:
    # Run by hand or by what a webhook tells: it refuses until somebody has approved a version.
    if: github.event_name == 'workflow_dispatch'
    runs-on: ubuntu-latest
    environment: production
    steps:
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install falaj
      - run: falaj login --ci -- falaj endpoints deploy <endpoint> --activate
"""

GITLAB = """\
# Made by `falaj ci init gitlab`. It holds no secret: each job signs in by its own token (OIDC),
# which a rule of the setting ci.rules lets in as service:<account>. A token is good for one
# exchange, so all commands of a job run under one.
stages: [check, propose, deploy]
default:
  image: python:3.12-slim
  before_script:
    - pip install falaj
  id_tokens:
    FALAJ_ID_TOKEN:
      aud: <address>
variables:
  FALAJ_URL: <address>
  # FALAJ_CA: ci/falaj-ca.pem
check:
  stage: check
  rules:
    - if: $CI_PIPELINE_SOURCE == 'merge_request_event'
  script:
    - falaj ci lint <definitions>
    - falaj login --ci -- falaj ci plan <definitions> --out plan.md
    # GITLAB_COMMENTER is a project access token (masked) that may write notes.
    - falaj ci comment plan.md
  artifacts:
    paths: [plan.md]
propose:
  stage: propose
  rules:
    - if: $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH
  script:
    - falaj ci lint <definitions>
    - >-
      falaj login --ci -- sh -ec
      "falaj apply <definitions>; <gates>; falaj ci propose <model> --reason $CI_COMMIT_SHA"
deploy:
  stage: deploy
  environment: production
  rules:
    - if: $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH
      when: manual
  script:
    - falaj login --ci -- falaj endpoints deploy <endpoint> --activate
"""

JENKINS = """\
// Made by `falaj ci init jenkins`. Jenkins gives a job no token of its own: it signs in with a
// deploy key (`falaj ci deploy-key`), kept as the credential "falaj": user name <account>, password
// the secret.
pipeline {
  agent { docker { image 'python:3.12-slim' } }
  environment {
    FALAJ_URL = '<address>'
    FALAJ = credentials('falaj')
    FALAJ_SERVICE = "${env.FALAJ_USR}"
    FALAJ_SERVICE_SECRET = "${env.FALAJ_PSW}"
  }
  stages {
    stage('check') {
      steps {
        sh 'pip install falaj'
        sh 'falaj ci lint <definitions>'
        sh 'falaj ci plan <definitions> --out plan.md'
        archiveArtifacts artifacts: 'plan.md'
      }
    }
    stage('propose') {
      when { branch 'main' }
      steps {
        sh 'falaj apply <definitions>'
        sh '<gates>'
        sh 'falaj ci propose <model> --reason "$GIT_COMMIT"'
      }
    }
    stage('deploy') {
      when { branch 'main' }
      input { message 'Deploy the version that was approved for production?' }
      steps {
        sh 'falaj endpoints deploy <endpoint> --activate'
      }
    }
  }
}
"""
GATES = "falaj gate run <model>"
"""What runs the gates in a job; a gate that fails ends it."""


@dataclass(frozen=True)
class Workflow:
    """A template, and where it stands in a repository."""

    path: str
    template: str

    def text(self, places: Places) -> str:
        """The workflow for some places."""
        return places.filled(self.template.replace("<gates>", GATES))


WORKFLOWS = {
    "github": Workflow(".github/workflows/falaj.yml", GITHUB),
    "gitlab": Workflow(".gitlab-ci.yml", GITLAB),
    "jenkins": Workflow("Jenkinsfile", JENKINS),
}
