"""Cables with delay and loss: the core by itself, and the whole with real packets."""

from __future__ import annotations

import json
import random

import pytest

from tests.netlab import Host, Lab
from tests.netlab.weather import QUEUE_LIMIT, Direction, Weather

RNG = random.Random(7)


def test_frames_leave_in_order_after_the_delay() -> None:
    direction = Direction(Weather(delay=0.5), RNG)
    for number in range(3):
        direction.accept(bytes([number]), 10.0)
    assert direction.take_due(10.499) == []
    assert direction.next_timeout() == 10.5
    assert direction.take_due(10.5) == [b"\0", b"\1", b"\2"]
    assert direction.next_timeout() is None


def test_jitter_spreads_arrivals_and_lets_frames_overtake() -> None:
    direction = Direction(Weather(delay=1.0, jitter=0.5), RNG)
    for number in range(100):
        direction.accept(bytes([number]), 0.0)
    assert direction.take_due(0.99) == []
    early = direction.take_due(1.25)
    assert 30 < len(early) < 70
    assert early != sorted(early)
    assert len(direction.take_due(1.5)) == 100 - len(early)


def test_loss_is_the_share_it_says() -> None:
    direction = Direction(Weather(loss=0.25), RNG)
    for _ in range(4000):
        direction.accept(b"", 0.0)
    assert len(direction.take_due(0.0)) == pytest.approx(3000, abs=150)


def test_a_full_cable_loses_the_newest() -> None:
    direction = Direction(Weather(delay=1.0), RNG)
    for number in range(QUEUE_LIMIT + 5):
        direction.accept(number.to_bytes(4, "big"), 0.0)
    assert int.from_bytes(direction.take_due(1.0)[-1], "big") == QUEUE_LIMIT - 1


@pytest.mark.parametrize("wrong", [{"delay": -0.1}, {"jitter": -1.0}, {"loss": 1.5}])
def test_there_is_no_such_weather(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no such weather"):
        Weather(**wrong)


def two_hosts(lab: Lab, weather: Weather) -> tuple[Host, Host]:
    lan = lab.lan("lan")
    near, far = lab.host("near"), lab.host("far")
    lan.attach(near, "192.0.2.1/24", "2001:db8::1/64", weather=weather)
    lan.attach(far, "192.0.2.2/24", "2001:db8::2/64")
    return near, far


@pytest.mark.system
def test_pings_take_their_time_and_some_get_lost() -> None:
    with Lab("weather") as lab:
        near, far = two_hosts(lab, Weather(delay=0.02, loss=0.1))
        near.wait_to_reach("2001:db8::2")
        words = ["ping", "-n", "-q", "-i", "0.01", "-c", "300", "-W", "1", "192.0.2.1"]
        summary = far.run(*words, check=False).stdout
        lost = float(summary.partition("% packet loss")[0].rpartition(" ")[2])
        assert lost == pytest.approx(19, abs=10)  # a ping crosses twice
        minimum = float(summary.rpartition("= ")[2].split("/")[0])
        assert 40 <= minimum < 45


@pytest.mark.system
def test_tcp_gets_through_the_weather() -> None:
    with Lab("weather") as lab:
        near, far = two_hosts(lab, Weather(delay=0.005))
        far.popen("iperf3", "--server", "--one-off", log="iperf3")
        far.run("sh", "-c", "until ss -Hltn sport = :5201 | grep -q .; do sleep 0.05; done")
        words = ["iperf3", "--client", "192.0.2.2", "--json", "--time", "2"]
        result = json.loads(near.run(*words).stdout)
        assert result["end"]["sum_received"]["bits_per_second"] > 20e6
