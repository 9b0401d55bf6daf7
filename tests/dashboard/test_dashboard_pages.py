"""The dashboard in Chromium, as somebody uses it: on a desktop and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboards import FLOW_RUN, LETTER, Dashboard, log_in, serving, write_catalog
from playwright.sync_api import expect

pytestmark = pytest.mark.needs_tool("chromium")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dashboard")


@pytest.fixture(scope="module")
def dashboard(home: Path) -> Iterator[Dashboard]:
    url = f"sqlite:///{home}/catalog.db"
    write_catalog(url)
    (home / "back").mkdir()
    with serving(
        home, url, restore_roots=(f"{home}/back",), destination_roots=("/backups",),
        source_roots=(str(home),),
    ) as made:  # fmt: skip
        yield made


def test_a_login_leads_to_the_page_that_was_asked_for(
    strange_page: Any, dashboard: Dashboard
) -> None:
    page = strange_page
    page.goto(dashboard.home + "runs?status=failed")
    assert "/login?next=" in page.url
    page.get_by_label("Client").fill("ann")
    page.get_by_label("Secret").fill("no such secret")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("No client has this name and secret.")
    page.get_by_label("Client").fill("ann")
    page.get_by_label("Secret").fill(dashboard.secrets["ann"])
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Runs").wait_for()
    assert page.url.endswith("/runs?status=failed")
    cookie = next(one for one in page.context.cookies() if one["name"] == "pybak_session")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert cookie["path"] == "/dashboard"
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Log in").wait_for()
    page.goto(dashboard.home)
    assert "/login" in page.url


def test_the_overview_tells_how_each_job_is(page: Any, dashboard: Dashboard) -> None:
    log_in(page, dashboard)
    assert "2 of 4 jobs need a look." in page.locator(".verdict").inner_text()
    rows = page.locator("table.jobs tbody tr")
    assert [rows.nth(n).locator(".pill").inner_text() for n in range(4)] == [
        "Problem", "Late", "Running", "Safe",
    ]  # fmt: skip
    documents = rows.filter(has_text="documents")
    assert re.search(r"(49|5\d) minutes ago", documents.inner_text())
    assert "in 9 hours" in documents.inner_text()
    assert "0 failed" in documents.get_by_role("img").get_attribute("alt")
    assert page.get_by_label("62 % done").is_visible()
    assert "the storage does not answer" in page.locator("main").inner_text()
    assert _fits(page)
    rows.get_by_role("link", name="documents").click()
    page.get_by_role("heading", name="documents", level=1).wait_for()
    page.locator(".js-plotly-plot .bars").first.wait_for()
    assert page.locator(".modebar").count() == 0
    assert _fits(page)


def test_a_file_is_found_by_a_part_of_its_name_and_downloaded(
    page: Any, dashboard: Dashboard
) -> None:
    log_in(page, dashboard, to="files")
    page.get_by_label("Find a file").press_sequentially("editor", delay=20)
    page.get_by_role("link", name=re.compile("Letter to the editor")).click()
    page.get_by_role("heading", name="Letter to the editor.odt").wait_for()
    rows = page.locator("table.versions tbody tr")
    assert rows.count() > 5
    assert _fits(page)
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download the latest").click()
    assert waiting.value.suggested_filename == "Letter to the editor.odt"
    assert Path(waiting.value.path()).read_text() == f"This is {LETTER}"
    page.go_back()
    page.get_by_role("link", name=re.compile("Letter to the editor")).wait_for()
    assert page.get_by_label("Find a file").input_value() == "editor"


def test_folders_are_browsed_as_they_were_at_a_moment(
    desktop_page: Any, dashboard: Dashboard
) -> None:
    page = desktop_page
    log_in(page, dashboard, to="files?job=documents")
    names = page.locator("table.files .name")
    expect(names).to_have_text(["Folder: Documents", "Folder: Pictures", "File: todo.txt"])
    names.get_by_text("Documents").click()
    page.get_by_role("link", name="invoices").click()
    page.get_by_text("2026-10 Power.pdf").wait_for()
    assert "folder=Documents%2Finvoices" in page.url
    picker = page.locator("summary", has_text="As it was on")
    picker.click()
    oldest = page.locator("details.picker[open] a").last
    moment = oldest.inner_text()
    oldest.click()
    # The page before it had the same file: it is the new one when it says so.
    expect(picker).to_contain_text(moment)
    page.get_by_text("2026-10 Power.pdf").wait_for()
    assert "run=" in page.url
    assert "folder=Documents%2Finvoices" in page.url
    page.get_by_role("link", name="All folders").click()
    page.get_by_text("todo.txt").wait_for()
    assert "run=" in page.url
    page.get_by_label("Find a file").fill("no such file anywhere")
    page.get_by_text("Nothing found").wait_for()


def test_a_version_is_restored_after_a_question(
    phone_page: Any, dashboard: Dashboard, home: Path
) -> None:
    page = phone_page
    log_in(page, dashboard, to="files?job=documents&folder=Documents%2Fletters%2F2026")
    page.get_by_role("link", name=re.compile("Letter to the editor")).click()
    page.locator("table.versions tbody tr").nth(2).get_by_role("link", name="Restore").click()
    page.get_by_label("Folder below it").fill("found again")
    page.get_by_text("Keep what is there").click()
    before = len(dashboard.runs.made)
    page.get_by_role("button", name="Continue").click()
    question = page.locator(".confirm-restore")
    question.wait_for()
    assert f"{home}/back/found again/{LETTER}" in question.inner_text()
    assert "Keep what is there" in question.inner_text()
    assert len(dashboard.runs.made) == before
    page.get_by_role("button", name="Restore it").click()
    page.get_by_text("The restore has started.").wait_for()
    kind, parameters, _ = dashboard.runs.made[-1]
    assert kind == "restore"
    assert len(dashboard.runs.made) == before + 1
    assert parameters["to"] == f"{home}/back/found again"
    assert parameters["options"] == {"include": [f"/{LETTER}"], "overwrite": "never"}
    page.get_by_role("link", name="Follow it").click()
    page.get_by_role("heading", name="Restore").wait_for()


def test_a_run_shows_its_progress_its_log_and_can_be_stopped(
    phone_page: Any, dashboard: Dashboard
) -> None:
    page = phone_page
    log_in(page, dashboard, to=f"runs/{FLOW_RUN}")
    page.get_by_label("62 % done").wait_for()
    page.get_by_text("writes /backups").wait_for()
    page.locator("summary", has_text="Stop this run").click()
    dashboard.logs.messages.append("one more line")
    page.get_by_text("one more line").wait_for()  # and the question is still open
    page.wait_for_function(
        """() => {
            const log = document.getElementById('log-lines');
            return log.scrollTop > 0 && log.scrollTop + log.clientHeight > log.scrollHeight - 8;
        }"""
    )  # its end is what is shown
    dashboard.runs.cancelled.clear()
    page.get_by_role("button", name="Stop it").click()
    page.get_by_text("It was asked to stop").wait_for()
    assert dashboard.runs.cancelled == [FLOW_RUN]


def test_a_run_that_left_files_out_names_them(desktop_page: Any, dashboard: Dashboard) -> None:
    log_in(desktop_page, dashboard, to="runs?job=documents&status=partial")
    desktop_page.locator("table.runs tbody a").click()
    desktop_page.get_by_text("Documents/locked.db").wait_for()
    assert desktop_page.get_by_text("Partial").first.is_visible()


def test_rules_of_retention_say_what_they_would_do(desktop_page: Any, dashboard: Dashboard) -> None:
    page = desktop_page
    log_in(page, dashboard, to="snapshots?job=documents")
    page.locator("summary", has_text="What would retention keep?").click()
    page.get_by_label("Newest").fill("3")
    page.get_by_role("button", name="Show what these rules would do").click()
    page.get_by_text(re.compile("These rules keep 3 of 31 snapshots")).wait_for()
    assert "keep_last=3" in page.url
    assert page.locator("table .pill", has_text="Removed").count() == 28
    page.get_by_role("button", name="Start a dry run").click()
    page.get_by_text("it removes nothing").wait_for()
    kind, parameters, _ = dashboard.runs.made[-1]
    assert kind == "prune"
    assert parameters == {"job": "documents", "options": {"keep_last": 3, "dry_run": True}}


def test_a_run_is_started_with_checked_options(
    desktop_page: Any, dashboard: Dashboard, home: Path
) -> None:
    page = desktop_page
    log_in(page, dashboard, to="start")
    before = len(dashboard.runs.made)
    page.get_by_role("button", name="Start").click()
    page.get_by_text("name sources, or a job that has a deployment").wait_for()
    page.get_by_label("Sources").fill("/etc")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("not below a folder that sources are limited to").wait_for()
    assert len(dashboard.runs.made) == before
    page.get_by_label("Sources").fill(f"{home}/back")
    page.locator("summary", has_text="Options").click()
    page.get_by_label("Full every").fill("now and then")
    page.get_by_role("group", name="Format").get_by_text("tar.zst", exact=True).click()
    page.get_by_role("button", name="Start").click()
    page.get_by_text(re.compile("can't be started as it is")).wait_for()
    page.get_by_label("Full every").fill("")
    page.get_by_label("Compression level").fill("5")
    page.get_by_role("button", name="Start").dblclick()
    page.get_by_text("It has started.").wait_for()
    page.wait_for_load_state("networkidle")
    assert len(dashboard.runs.made) == before + 1
    kind, parameters, _ = dashboard.runs.made[-1]
    assert kind == "backup"
    assert parameters["sources"] == [f"{home}/back"]
    assert parameters["options"] == {"format": "tar.zst", "level": 5}


def test_who_may_only_look_is_offered_nothing_else(strange_page: Any, dashboard: Dashboard) -> None:
    page = strange_page
    log_in(page, dashboard, "looker", to="files?job=documents&folder=Documents")
    page.get_by_text("Notes.md").wait_for()
    assert page.get_by_role("link", name="Start a run").count() == 0
    assert page.get_by_role("link", name="Restore this folder").count() == 0
    page.get_by_text("Notes.md").click()
    page.get_by_text("You may look").wait_for()
    assert page.get_by_role("link", name="Download").count() == 0
    for address in ("start", "restore?job=documents&path=todo.txt"):
        page.goto(dashboard.home + address)
        page.get_by_text("You may not do this").wait_for()
    answer = page.goto(dashboard.home + "download/1/members/todo.txt")
    assert answer.status == 403


def test_the_keyboard_is_enough(desktop_page: Any, dashboard: Dashboard) -> None:
    page = desktop_page
    log_in(page, dashboard)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#page")).to_be_focused()
    page.goto(dashboard.home + "files")
    search = page.get_by_label("Find a file")
    search.wait_for()
    page.keyboard.press("/")
    expect(search).to_be_focused()
    # A browser that stalls between letters neither drops nor mixes up any.
    stall = page.evaluate(
        """setInterval(() => {
            const end = performance.now() + 180;
            while (performance.now() < end);
        }, 220)"""
    )
    page.keyboard.type("edito", delay=120)
    expect(page).to_have_url(re.compile("q=edito$"))
    expect(search).to_have_value("edito")
    page.evaluate("stall => clearInterval(stall)", stall)
    found = page.get_by_role("link", name=re.compile("Letter to the editor"))
    found.wait_for()
    box = page.locator(".search .dash-input-container")
    assert box.evaluate("box => getComputedStyle(box).outlineStyle") == "solid"
    for _ in range(6):
        page.keyboard.press("Tab")
        if found.evaluate("link => link === document.activeElement"):
            break
    # What is found anew takes the place of what was there; the keyboard stays at the same file.
    search.evaluate(
        """field => {
            Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value')
                .set.call(field, 'editor');
            field.dispatchEvent(new Event('input', {bubbles: true}));
        }"""
    )
    expect(page).to_have_url(re.compile("q=editor"))
    page.wait_for_load_state("networkidle")
    expect(found).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Letter to the editor.odt").wait_for()
    expect(page.locator("#page")).to_be_focused()


def test_addresses_of_nothing_say_so(desktop_page: Any, dashboard: Dashboard) -> None:
    page = desktop_page
    log_in(page, dashboard, to="no/such/page")
    for address in (
        "",
        "job?name=nope",
        "runs/nope",
        "files?job=nope",
        "file?job=documents&path=x",
    ):
        page.goto(dashboard.home + (address or "no/such/page"))
        page.get_by_role("heading", name="Not found").wait_for()
    page.goto(dashboard.home + "runs?cursor=nonsense")
    page.get_by_text("This is no cursor of this list").wait_for()


PAGES = (
    "", "job?name=documents", "files?job=documents&folder=Documents&q=letter",
    "file?job=documents&path=todo.txt", "restore?job=documents&path=todo.txt",
    f"runs/{FLOW_RUN}", "snapshots?job=documents&keep_last=3", "storage", "start",
)  # fmt: skip
_SERIOUS = """async () => {
    const found = await axe.run(document, {resultTypes: ['violations'], preload: false});
    return found.violations.filter(one => ['serious', 'critical'].includes(one.impact))
        .map(one => `${one.id}: ${one.nodes.slice(0, 3).map(node => node.html.slice(0, 160))}`);
}"""


def test_axe_finds_nothing_serious(page: Any, dashboard: Dashboard) -> None:
    from axe_playwright_python.base import AXE_FILE_PATH

    axe = Path(AXE_FILE_PATH).read_text()
    found: list[str] = []
    log_in(page, dashboard)
    is_phone = page.viewport_size["width"] < 500
    for address in PAGES[::4] if is_phone else (*PAGES, "login"):  # there the style is another
        page.goto(dashboard.home + address)
        page.locator("main h1").wait_for()
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.wait_for_function("!document.querySelector('#page[data-dash-is-loading=true]')")
        page.evaluate(axe)
        found += [f"{address}: {one}" for one in page.evaluate(_SERIOUS)]
    assert found == []


def _fits(page: Any) -> bool:
    """Whether nothing sticks out at the side."""
    whole: int = page.evaluate("document.documentElement.scrollWidth")
    return whole <= page.viewport_size["width"]
