"""The alert rules and the dashboard: every figure they name is exported, and their queries can be read."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serve.engine import Health
from serve.engine.scheduling.figures import Queue, Totals
from serve.errors import ServiceError
from serve.http.errors import STATUSES
from serve.http.metrics import Metrics
from serve.transcript.events import LiveWords

FOLDER = Path(__file__).parents[1] / "docs" / "observability"
ALERTS = FOLDER / "alerts.yaml"
FROM_PROMETHEUS = {"up"}
"""What Prometheus itself records of a job."""

NO_FIGURES = {
    *(
        "sum",
        "by",
        "and",
        "rate",
        "increase",
        "time",
        "histogram_quantile",
        "predict_linear",
        "le",
        "instance",
    ),
    *("job", "route", "status", "code", "text"),
}
"""Functions, keywords and labels of the queries."""


def rules() -> list[dict]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]


def dashboard() -> dict:
    return json.loads((FOLDER / "dashboard.json").read_text())


def queries() -> list[str]:
    board = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return [rule["expr"] for rule in rules()] + board


def exported() -> dict[str, set[str]]:
    """Return the labels of every figure that a service exports, by its name."""
    metrics = Metrics(Queue, Totals, lambda: [Health()])
    metrics.answered("/invocations", 200, 1.0)
    metrics.failed("overloaded")
    metrics.transcribed(1.0, 0.1)
    metrics.heard_live(LiveWords(committed=("a",), partial="", phrase=None, lag_s=1.0))
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("query", queries())
def test_a_query_names_what_the_service_exports(query):
    known = exported()
    without_texts = re.sub(r'"[^"]*"', '""', query)
    ranges = re.sub(r"\[[^]]*\]", "", without_texts)
    names = set(re.findall(r"[a-zA-Z_]\w*", ranges)) - NO_FIGURES
    assert names and names <= set(known) | FROM_PROMETHEUS
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", without_texts):
        labels = set(re.findall(r"(\w+)\s*[=!]", matchers)) - {"job", "instance"}
        assert labels <= known.get(name, set())
        assert "job" in matchers
    for opening, closing in ("()", "[]", "{}"):
        assert query.count(opening) == query.count(closing)


def test_every_figure_of_the_service_is_on_the_dashboard():
    shown = " ".join(queries())
    own = {name for name in exported() if name.startswith("shrota_") and not name.endswith("_created")}
    missing = {
        name for name in own if not any(part in shown for part in (name, re.sub("_(sum|count)$", "", name)))
    }
    assert missing == set()


def test_codes_that_alerts_name_are_codes_of_errors():
    codes = {error.code for error in STATUSES if issubclass(error, ServiceError)}
    named = set(re.findall(r'code="(\w+)"', " ".join(queries())))
    assert named and named <= codes


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"] and rule["annotations"]["action"]


def test_panels_lie_side_by_side_and_have_numbers_of_their_own():
    panels = dashboard()["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


def test_prometheus_itself_reads_the_rules():
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here; Debian has it in the package prometheus")
    done = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
