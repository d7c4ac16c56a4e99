"""The report and the inspector's page say the same of what feedback did to a student's answers."""

from services.inspector.run.results import run_results
from services.inspector.web.outcomes import rates_of
from services.inspector.web.rendering import percent
from shared.results.report import build_report
from tests.fakes.final_state import final_state, settings


def test_report_and_page_have_one_break_rate_and_one_fix_rate() -> None:
    state = final_state()
    [told, *_] = build_report(state, settings(), {}, 100.0, {}).students
    page = dict(rates_of(run_results("by-hand", 1, state, None), "a"))
    assert page["Break-rate of a"] == f"{percent(told.break_rate, 1)} of 4"
    assert page["Fix-rate of a"] == f"{percent(told.fix_rate, 1)} of 2"
