"""This machine: the card, the fitted line, what is kept between sessions, and one real measurement."""

from __future__ import annotations

import pytest

from llmlab.hardware import cluster, describe_machine, machine, measurement, this_machine

FOUND = {
    "fp32": 5e10,
    "fp64": 2.5e10,
    "attention": 6e10,
    "memory": 1e10,
    "small_s": 2e-6,
    "on_gpu": False,
    "memory_bytes": 0,
    "all_threads_fp32": 9e10,
    "latency_s": 3e-5,
    "bytes_per_s": 2e9,
    "link_error": 0.1,
}


@pytest.fixture
def measurements(tmp_path, monkeypatch):
    """Give what `measure` was asked for; it answers at once, and is kept in a folder of the test's own."""
    asked = []
    monkeypatch.setattr(machine, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(machine, "_MEANWHILE", {})
    monkeypatch.setattr(machine, "_load_average", lambda: 0.5)
    monkeypatch.setattr(machine, "measure", lambda ranks: asked.append(ranks) or FOUND)
    return asked


def test_the_card_says_what_this_machine_has():
    card = describe_machine()
    assert card.cores >= 1 and f"{card.cores} cores" in str(card)
    assert card.torch in str(card)


@pytest.mark.parametrize("latency, bandwidth", [(5e-5, 1e9), (1e-3, 1e5), (0.0, 1e10)])
def test_the_fit_recovers_the_line_its_samples_lie_on(latency, bandwidth):
    shapes = [(1, 4), (1, 2**16), (1, 2**22), (6, 1.5 * 4), (6, 1.5 * 2**20)]
    samples = [(float(s), float(b), s * latency + b / bandwidth) for s, b in shapes]
    fitted = measurement.fit_latency_bandwidth(samples)
    assert fitted == pytest.approx((latency, bandwidth), rel=1e-6, abs=1e-12)


def test_the_fit_never_gives_a_negative_latency():
    latency, bandwidth = measurement.fit_latency_bandwidth([(1.0, 1e3, 1e-7), (1.0, 1e6, 1e-3)])
    assert latency == 0 and bandwidth > 0


def test_the_fit_never_gives_a_negative_bandwidth():
    assert measurement.fit_latency_bandwidth([(1.0, 4.0, 1.0), (1.0, 1e6, 0.5)]) == (pytest.approx(0.9, abs=0.4), 2e6)


def test_one_size_cannot_be_fitted():
    with pytest.raises(ValueError, match="at least two sizes"):
        measurement.fit_latency_bandwidth([(1.0, 100.0, 1e-3), (1.0, 100.0, 1.1e-3)])


def test_what_was_measured_is_kept_until_a_refresh(measurements):
    said = []
    first = this_machine(say=said.append)
    assert this_machine(say=said.append) == first and len(measurements) == 1 and len(said) == 2
    this_machine(refresh=True, say=said.append)
    assert len(measurements) == 2


def test_what_a_busy_machine_measured_is_kept_for_the_session_only(measurements, monkeypatch):
    monkeypatch.setattr(machine, "_load_average", lambda: 100.0)
    said = []
    first = this_machine(say=said.append)
    assert this_machine(say=said.append) == first and len(measurements) == 1
    assert "load average 100.0" in said[-1] and not machine.CACHE.exists()
    monkeypatch.setattr(machine, "_MEANWHILE", {})  # the next session
    monkeypatch.setattr(machine, "_load_average", lambda: 0.5)
    this_machine(say=said.append)
    assert len(measurements) == 2 and machine.CACHE.exists()


def test_a_refresh_counts_for_the_session_whatever_was_kept(measurements, monkeypatch):
    this_machine(say=lambda line: None)
    slower = {**FOUND, "fp32": 1e10}
    monkeypatch.setattr(machine, "measure", lambda ranks: slower)
    monkeypatch.setattr(machine, "_load_average", lambda: 100.0)
    refreshed = this_machine(refresh=True, say=lambda line: None)
    assert this_machine(say=lambda line: None) == refreshed
    monkeypatch.setattr(machine, "_MEANWHILE", {})  # the next session has what was kept before
    assert this_machine(say=lambda line: None).device.flops_per_s["fp32"] == FOUND["fp32"]


def test_a_kept_file_cut_short_is_measured_again(measurements):
    this_machine(say=lambda line: None)
    (kept,) = machine.CACHE.iterdir()
    kept.write_text(kept.read_text()[:20])
    this_machine(say=lambda line: None)
    assert len(measurements) == 2


def test_it_says_so_when_it_cannot_be_kept(measurements, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    said = []
    this_machine(say=said.append)
    assert "Could not keep it" in said[-1] and str(tmp_path) in said[-1]


def test_a_measured_cluster_says_so_and_has_one_clock(measurements):
    here = this_machine(say=lambda line: None)
    assert here.measured and not here.fictional and here.device.one_clock and "measured" in here.source
    assert here.device.kernel_seconds("matmul", 5 * 10**10, 0, "bf16") == pytest.approx(1 + 2e-6)
    assert here.link(0, 1).seconds(2 * 10**9) == pytest.approx(1 + 3e-5)
    assert cluster("this-machine") == here


def test_one_process_has_no_link_and_says_so(measurements, monkeypatch):
    alone = {k: v for k, v in FOUND.items() if k not in ("latency_s", "bytes_per_s", "link_error")}
    monkeypatch.setattr(machine, "measure", lambda ranks: alone)
    said = []
    assert this_machine(say=said.append).intra.latency_s == 0
    assert "no link" in said[-1]


@pytest.fixture(scope="module")
def measured():
    return measurement.measure(2)


def test_two_processes_measure_every_rate(measured):
    assert 1e8 < measured["fp64"] < 1e13 and 1e8 < measured["fp32"] < 1e14
    assert 1e8 < measured["memory"] < 1e13 and 1e-8 < measured["small_s"] < 1e-3


def test_two_processes_measure_their_link(measured):
    assert 0 <= measured["latency_s"] < 0.1 and 1e6 < measured["bytes_per_s"] < 1e13
    assert measured["link_error"] < 2  # loaded machines miss the line by a lot; a fit gone wrong by far more


@pytest.mark.gpu
def test_a_gpu_is_measured_on_its_own_clock():
    found = measurement.measure(1)
    assert found["on_gpu"] and found["bf16"] > found["fp32"]
    assert not machine._as_cluster(describe_machine(), found).device.one_clock
