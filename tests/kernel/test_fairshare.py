"""Fair shares: laws of who begins next, held against many made-up days of a queue."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.fairshare import Head, Load, Need, Quota, Share, choose, exceeded

TEAMS = ("amber", "basalt", "coral")


@dataclass
class Day:
    """Workers that take jobs of unit cores one after the other, as ``choose`` says."""

    quotas: dict[str, Quota]
    n_workers: int
    now: float = 0.0
    running: list[tuple[float, Head, float]] = field(default_factory=list)
    shares: dict[str, Share] = field(default_factory=dict)
    begun: list[Head] = field(default_factory=list)
    held: dict[str, float] = field(default_factory=dict)

    def loads(self):
        found = {}
        for _, head, _ in self.running:
            load = found.get(head.team, Load())
            need = Need(
                load.need.cpu_thousandths + head.need.cpu_thousandths,
                load.need.gpu_thousandths + head.need.gpu_thousandths,
            )
            found[head.team] = Load(load.n_runs + 1, need)
        return found

    def quota(self, team):
        return self.quotas.get(team, Quota())

    def end_one(self):
        ends, head, began = min(self.running, key=lambda one: one[0])
        self.running.remove((ends, head, began))
        self.now = ends
        share = self.shares.get(head.team, Share())
        self.shares[head.team] = share.charged(head.need, max(0.0, ends - began - 1.0), self.now)
        seconds = (ends - began) * head.need.weight
        self.held[head.team] = self.held.get(head.team, 0.0) + seconds

    def begin_one(self, heads, seconds):
        chosen = choose(heads, self.loads(), self.shares, self.quota, self.now).begins
        if chosen is None:
            return None
        share = self.shares.get(chosen.team, Share())
        self.shares[chosen.team] = share.charged(chosen.need, 1.0, self.now, begun=True)
        self.running.append((self.now + seconds, chosen, self.now))
        self.begun.append(chosen)
        for team, load in self.loads().items():
            quota = self.quota(team)
            assert quota.max_runs is None or load.n_runs <= quota.max_runs
            for most, held in (
                (quota.max_cpu_thousandths, load.need.cpu_thousandths),
                (quota.max_gpu_thousandths, load.need.gpu_thousandths),
            ):
                assert most is None or held <= most
        return chosen


quotas = st.builds(
    Quota,
    weight=st.integers(1, 4),
    max_runs=st.none() | st.integers(1, 3),
    max_cpu_thousandths=st.none() | st.integers(1000, 6000),
    max_gpu_thousandths=st.none() | st.integers(0, 2000),
)
needs = st.builds(
    Need,
    cpu_thousandths=st.integers(1, 4000),
    gpu_thousandths=st.sampled_from((0, 0, 250, 1000)),
)


@settings(max_examples=25, deadline=None)
@given(
    rules=st.fixed_dictionaries(dict.fromkeys(TEAMS, quotas)),
    n_workers=st.integers(1, 4),
    jobs=st.lists(
        st.tuples(st.sampled_from(TEAMS), needs, st.floats(1, 500)), min_size=1, max_size=25
    ),
)
def test_no_quota_is_ever_exceeded_and_every_job_that_fits_begins(rules, n_workers, jobs):
    day = Day(rules, n_workers)
    waiting = {team: [] for team in TEAMS}
    for number, (team, need, seconds) in enumerate(jobs):
        waiting[team].append((Head(f"{number:03}", team, need), seconds))
    never = set()
    while any(waiting.values()) or day.running:
        heads = [queue[0][0] for queue in waiting.values() if queue]
        lengths = {queue[0][0].id: queue[0][1] for queue in waiting.values() if queue}
        choice = choose(heads, day.loads(), day.shares, day.quota, day.now)
        for head in choice.never:
            assert exceeded(day.quota(head.team), Load(), head.need) is not None
            never.add(head.id)
            waiting[head.team].pop(0)
        if choice.never:
            continue
        begun = None
        if len(day.running) < n_workers:
            begun = day.begin_one(heads, lengths[choice.begins.id] if choice.begins else 0)
        if begun is not None:
            waiting[begun.team].pop(0)
        elif day.running:
            day.end_one()
        else:
            raise AssertionError(f"nothing runs and nothing begins: {heads}")
    assert {head.id for head in day.begun} | never == {f"{n:03}" for n in range(len(jobs))}


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.fixed_dictionaries(dict.fromkeys(TEAMS, st.floats(30, 300))),
    weights=st.fixed_dictionaries(dict.fromkeys(TEAMS, st.integers(1, 3))),
)
def test_teams_that_always_wait_get_time_by_their_weights(lengths, weights):
    day = Day({team: Quota(weight=weights[team]) for team in TEAMS}, 1)
    heads = [Head(team, team, Need(1000)) for team in TEAMS]
    longest = max(lengths.values())
    while day.now < 40 * longest:
        begun = day.begin_one(heads, 0)
        day.running[-1] = (day.now + lengths[begun.team], begun, day.now)
        day.end_one()
    # What a team is ahead of another never exceeds a few of the longest jobs, after any time.
    by_weight = {team: day.held.get(team, 0.0) / weights[team] for team in TEAMS}
    assert max(by_weight.values()) - min(by_weight.values()) <= 0.35 * max(by_weight.values()) + (
        3 * longest
    )


@settings(max_examples=40, deadline=None)
@given(n_flood=st.integers(2, 6), seconds=st.floats(1, 3600))
def test_a_team_that_floods_the_queue_starves_nobody(n_flood, seconds):
    day = Day({}, n_flood)
    flood = Head("flood", "amber", Need(4000))
    for _ in range(n_flood):
        day.begin_one([flood], seconds)
    late = Head("late", "basalt", Need(500))
    day.end_one()
    assert day.begin_one([flood, late], seconds) == late


def test_the_team_with_fewer_running_cores_for_its_weight_goes_first():
    heads = [Head("a", "amber", Need(1000)), Head("b", "basalt", Need(1000))]
    loads = {"amber": Load(1, Need(2000)), "basalt": Load(1, Need(3000))}
    rules = {"amber": Quota(weight=1), "basalt": Quota(weight=2)}
    assert choose(heads, loads, {}, rules.__getitem__, 0.0).begins == heads[1]


def test_a_gpu_weighs_more_than_a_core():
    heads = [Head("a", "amber", Need(1000)), Head("b", "basalt", Need(1000))]
    loads = {"amber": Load(1, Need(1000, 1000)), "basalt": Load(1, Need(4000))}
    assert choose(heads, loads, {}, lambda _team: Quota(), 0.0).begins == heads[1]


def test_spot_jobs_come_after_all_others():
    heads = [Head("a", "amber", Need(1000), spot=True), Head("b", "basalt", Need(1000))]
    loads = {"basalt": Load(3, Need(9000))}
    assert choose(heads, loads, {}, lambda _team: Quota(), 0.0).begins == heads[1]
    assert choose(heads[:1], loads, {}, lambda _team: Quota(), 0.0).begins == heads[0]


def test_what_was_used_counts_half_after_an_hour():
    share = Share().charged(Need(2000), 100.0, 0.0)
    assert share.at(0.0) == 200.0
    assert share.at(3600.0) == 100.0
