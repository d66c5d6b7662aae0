"""What people get wrong at each step: one clear error, a way out, and nothing half done.

Each case is asked of the SDK (which class, which code) and of the command line (exit code
1, no traceback), and nothing in the platform may have moved.
"""

import socket
from contextlib import contextmanager

import pytest

from falaj.declare import Contract, Endpoint, ModelPolicy, RowCount, Source
from falaj.interfaces.declarations import BrokenDefinitions
from falaj.interfaces.platform import JobFailed
from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.door import face
from falaj.kernel.errors import Corrupt, FalajError, InvalidInput, NotFound
from falaj.models.model import GatesNotPassed
from falaj.operations.service import ChangeService
from falaj.testing.installations import Installation
from falaj.training.model import TrainingRequest
from falaj.wiring.assembly import assemble

INJECTION = "departures; DROP TABLE departures --"


class Place:
    """A platform with data and a trained version without gates, opened near."""

    def __init__(self, folder, story):
        self.installation = Installation(folder)
        self.installation.init()
        self.folder = folder
        story.write_data(folder, n=700)
        (folder / "empty.csv").write_text("flight,carrier,signal,at,late\n")
        (folder / "narrow.csv").write_text("flight,carrier\n1,AA\n")
        (folder / "words.csv").write_text(
            "flight,carrier,signal,at,late\none,AA,much,yesterday,perhaps\n"
        )
        (folder / "binary.csv").write_bytes(bytes(range(128, 256)) * 4)
        self.premises = assemble(self.installation.settings, process="test")
        with self.installation.near() as owner:
            policy = next(one for one in story.DEFINITIONS if isinstance(one, ModelPolicy))
            second = policy.model_copy(update={"name": "second"})
            endpoint = Endpoint(name="second", model="second", feature_service="delays")
            bad = [
                story.DEPARTURES.model_copy(update={"name": name, "table": name, "path": path})
                for name, path in BAD_FILES
            ]
            strict = Contract(name="strict", table="strict", checks=(RowCount(least=1_000_000),))
            owner.definitions.apply(
                story.documents(*story.DEFINITIONS, second, endpoint, strict, *bad)
            )
            for source in ("departures", "arrivals"):
                owner.wait(owner.sources.load(source))
            request = TrainingRequest(model="late", spec=story.SPEC, params=story.SMALL)
            self.trained = owner.wait(owner.training.train(request)).result
            owner.models.register("second", run=self.trained["run"])

    def state(self):
        """What must not move: the lake, the definitions, versions, changes, releases."""
        with self.installation.near() as owner:
            return (
                self.premises.lake.latest(),
                sorted(self.premises.lake.tables()),
                [one.model_dump() for one in owner.definitions.list()],
                [one.model_dump() for one in owner.models.versions("second")],
                [one.id for one in owner.changes.list()],
                [one.model_dump() for one in owner.endpoints.list()],
            )

    @contextmanager
    def stepped_up(self):
        """The platform as its owner with a fresh factor, and its door as an approver."""
        now = self.premises.clock.now()
        salma = Principal("user:salma", PrincipalKind.USER, ("approver",))
        with self.installation.near() as owner:
            door = owner.door.door
            owner.door.door = door.as_(door.caller.with_factor(now))
            yield owner, face(ChangeService, door.as_(Caller(salma, mfa_at=now)))


BAD_FILES = (
    ("missing", "nothing.csv"),
    ("empty", "empty.csv"),
    ("narrow", "narrow.csv"),
    ("mistyped", "words.csv"),
    ("binary", "binary.csv"),
    ("outside", "/etc/hostname"),
    ("upwards", "../../../../../../etc/hostname"),
    ("strict", "departures.csv"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory, story):
    made = Place(tmp_path_factory.mktemp("place") / "project", story)
    yield made
    made.premises.close()


@pytest.fixture
def unmoved(place):
    """Fails the test if anything moved."""
    before = place.state()
    yield
    assert place.state() == before


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("missing", "source-broken", ["nothing.csv"]),
        ("empty", "source-broken", ["empty.csv"]),
        ("narrow", "source-broken", ["narrow.csv", "signal"]),
        ("mistyped", "contract-broken", ["mistyped", "row 1"]),
        ("binary", "source-broken", ["binary.csv"]),
        ("outside", "source-broken", ["/etc/hostname", "outside"]),
        ("upwards", "source-broken", ["etc/hostname", "outside"]),
        ("strict", "contract-broken", ["strict", "row_count"]),
    ],
)
def test_a_broken_file_is_named_and_not_loaded(place, unmoved, command, source, code, words):
    with place.installation.near() as owner:
        with pytest.raises(JobFailed) as failed:
            owner.wait(owner.sources.load(source))
        job = owner.sources.load(source)
    assert failed.value.details["reason"] == code
    assert failed.value.hint
    for word in words:
        assert word in failed.value.message
    command(place.folder, "wait", job.id).refused(*words)


def documents_of(story, **changes):
    return [story.DEPARTURES.document() | {"name": "new", "table": "new"} | changes]


@pytest.mark.parametrize(
    ("action", "arguments", "error", "words", "line"),
    [
        ("tables.get", {"table": INJECTION}, (InvalidInput, NotFound), ["departures"], True),
        ("tables.get", {"table": "nothing"}, NotFound, ["nothing"], True),
        ("tables.read", {"table": "departures", "columns": ["flight) --"]}, InvalidInput,
         ["flight) --"], False),
        ("sources.load", {"source": INJECTION}, (InvalidInput, NotFound), ["departures;"], True),
        ("sources.load", {"source": "nothing"}, NotFound, ["nothing"], True),
        ("models.get", {"name": "late' OR 1=1 --", "version": 1}, InvalidInput, ["name"], True),
        ("models.get", {"name": "nothing", "version": 1}, NotFound, ["nothing"], True),
        ("models.get", {"name": "late", "version": 99}, NotFound, ["99"], True),
        ("models.gates", {"name": "late", "version": 99}, NotFound, ["99"], True),
        ("models.get", {"name": "late", "version": 0}, InvalidInput, ["version"], True),
        ("models.register", {"name": "late", "run": "run_none"}, NotFound, ["run_none"], False),
        ("models.promote",
         {"name": "late", "version": 99, "to": "production", "reason": "x"}, NotFound, ["99"],
         False),
        ("models.promote",
         {"name": "second", "version": 1, "to": "the moon", "reason": "x"}, InvalidInput, ["to"],
         False),
        ("models.promote",
         {"name": "second", "version": 1, "to": "production", "reason": " "}, InvalidInput,
         ["reason"], False),
        ("models.promote",
         {"name": "second", "version": 1, "to": "production", "reason": "x"}, GatesNotPassed,
         ["second", "gate"], False),
        ("endpoints.deploy", {"name": "second"}, FalajError, ["second"], True),
        ("endpoints.deploy", {"name": "nothing"}, NotFound, ["nothing"], True),
        ("endpoints.predict", {"name": "second", "inputs": [{}]}, FalajError, ["second"], False),
        ("training.set", {"training_set": "ts_none"}, NotFound, ["ts_none"], True),
        ("changes.approve", {"id": "change_none", "reason": "x"}, FalajError, [], False),
        ("jobs.get", {"job_id": "job_none"}, NotFound, ["job_none"], True),
        ("audit.get", {"seq": 10**9}, NotFound, ["1000000000"], True),
        ("monitors.drift", {"endpoint": "nothing"}, NotFound, ["nothing"], True),
        ("definitions.get", {"kind": "source", "name": "x'--"}, NotFound, ["x'--"], True),
        ("definitions.apply", {"documents": [{"kind": "sauce", "name": "x"}]}, InvalidInput,
         ["sauce"], False),
        ("accounts.invite", {"name": "Robert'); DROP", "roles": ["viewer"]}, InvalidInput,
         ["name"], False),
        ("accounts.invite", {"name": "robert", "roles": ["king"]}, InvalidInput, ["roles"], False),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(place, unmoved, command, action, arguments, error, words, line):
    service, verb = action.split(".")
    with place.stepped_up() as (owner, _), pytest.raises(error) as raised:
        getattr(getattr(owner, service), verb)(**arguments)
    assert raised.value.code != "falaj-error"
    assert raised.value.hint, raised.value.message
    for word in words:
        assert word in raised.value.message
    if line:
        told = [str(value) for value in arguments.values()]
        command(place.folder, service, verb.replace("_", "-"), *told).refused(*words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"table": INJECTION}, ["source:new", "table"]),
        ({"columns": {"x y": "integer"}}, ["source:new", "columns"]),
        ({"columns": {"flight": "sandwich"}}, ["source:new", "sandwich"]),
        ({"colour": "blue"}, ["source:new", "colour"]),
        ({"event_time": "never"}, ["source:new", "never"]),
    ],
)
def test_a_wrong_definition_is_named_and_none_of_its_fellows_applied(
    place, unmoved, story, changes, words
):
    good = story.DEPARTURES.document() | {"name": "good", "table": "good"}
    with place.installation.near() as owner, pytest.raises(InvalidInput) as raised:
        owner.definitions.apply([good, *documents_of(story, **changes)])
    told = f"{raised.value.message} {raised.value.details}"
    assert all(word in told for word in words), told
    assert raised.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("from falaj.declare import Source\nx = Source(", ["broken.py", "line 2"]),
        ("from falaj.declare import Source\nx = Source(name='x', colour='blue')",
         ["broken.py", "line 2", "colour"]),
        ("from falaj.declare import Sauce", ["broken.py", "line 1", "Sauce"]),
        ("1 / 0", ["broken.py", "line 1", "ZeroDivisionError"]),
        ("raise SystemExit(0)", ["broken.py", "line 1", "SystemExit"]),
        ("x = 1", ["declares nothing"]),
        ("\x00", ["broken.py"]),
    ],
)  # fmt: skip
def test_a_broken_definitions_module_is_named_with_its_line(
    place, unmoved, command, tmp_path, text, words
):
    (tmp_path / "broken.py").write_text(text)
    command(place.folder, "plan", str(tmp_path)).refused(*words)
    command(place.folder, "apply", str(tmp_path)).refused(*words)


def test_two_definitions_of_one_name_are_refused(place, unmoved, command, tmp_path):
    text = (
        "from falaj.declare import Source\n"
        "one = Source(name='twin', table='twin', path='a.csv', columns={'x': 'integer'})\n"
        "two = Source(name='twin', table='twin', path='b.csv', columns={'x': 'integer'})\n"
    )
    (tmp_path / "twins.py").write_text(text)
    command(place.folder, "apply", str(tmp_path)).refused("twin", "twins.py")
    with place.installation.near() as owner, pytest.raises(InvalidInput, match=r"twin|twice"):
        namespace = {}
        exec(text, namespace)
        owner.definitions.apply([namespace["one"].document(), namespace["two"].document()])


def test_a_missing_folder_of_definitions_is_named(place, command, tmp_path):
    command(place.folder, "plan", str(tmp_path / "nowhere")).refused("nowhere")


def test_a_folder_without_a_platform_is_told_what_to_do(command, tmp_path):
    command(tmp_path, "whoami").refused("no platform", "falaj init")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_one_clear_error(place, command, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("FALAJ_HTTP__PORT", str(port))
        command(place.folder, "up").refused(str(port), "http.port")


def test_an_argument_file_that_is_missing_is_named(place, command):
    told = command(place.folder, "models", "promote", "late", "1", "--to", "staging",
                   "--reason", "@nothing.txt")  # fmt: skip
    told.refused("nothing.txt", "--reason")


@pytest.fixture(scope="module")
def served(place):
    """The one release of the endpoint, which serves."""
    with place.stepped_up() as (owner, approver):
        owner.wait(owner.models.gates("late", 1))
        change = owner.models.promote("late", 1, to="production", reason="Good")
        approver.approve(change.id, reason="Yes")
        return owner.endpoints.deploy("late", activate=True)


def test_changed_model_bytes_are_neither_promoted_nor_deployed(place, story, served):
    with place.stepped_up() as (owner, _):
        release = served
        before = owner.endpoints.predict("late", [story.QUESTION]).predictions[0]["score"]
        blobs = sorted((place.installation.home / "blobs").rglob("*"))
        kept = {path: path.read_bytes() for path in blobs if path.is_file()}
        try:
            for path, data in kept.items():
                middle = len(data) // 2
                path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
            with pytest.raises(Corrupt) as refused:
                owner.endpoints.deploy("late", activate=True)
            assert refused.value.hint
            with pytest.raises(Corrupt):
                owner.models.promote("late", 1, to="staging", reason="Again")
        finally:
            for path, data in kept.items():
                path.write_bytes(data)
        assert owner.endpoints.status("late").active.id == release.id
        assert len(owner.endpoints.releases("late")) == 1
        after = owner.endpoints.predict("late", [story.QUESTION]).predictions[0]["score"]
        assert after == before


@pytest.mark.parametrize(
    "question",
    [{}, {"signal": 1.0}, {"signal": "high", "carrier": "AA"}, {"signal": 1.0, "carrier": 7},
     {"signal": 1.0, "carrier": "AA", "colour": "blue"}],
)  # fmt: skip
def test_a_wrong_question_names_the_field(place, served, question):
    with place.installation.near() as owner, pytest.raises(InvalidInput) as raised:
        owner.endpoints.predict("late", [question])
    fields = ("carrier", "signal", "colour")
    assert any(f in raised.value.message for f in fields), raised.value.message
    assert raised.value.hint


def test_a_table_named_in_a_source_cannot_smuggle_sql(place, story):
    with pytest.raises(ValueError, match="table"):
        Source(**(story.DEPARTURES.model_dump() | {"table": INJECTION}))


def test_a_change_that_there_is_not_cannot_be_approved(place):
    with place.stepped_up() as (_, approver), pytest.raises(NotFound, match="change_none"):
        approver.approve("change_none", reason="Yes")


def test_a_definitions_error_is_a_falaj_error():
    assert issubclass(BrokenDefinitions, FalajError)
