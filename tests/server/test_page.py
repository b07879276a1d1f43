"""The page in a browser, against a service with the tiny model."""

from __future__ import annotations

import json

import pytest
from browsing import NARROW, axe_source, chromium, violations, visiting
from serving import serving

pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.sync_api import expect

from openclara.server.engine import ClaraEngine
from openclara.server.settings import Settings

pytestmark = pytest.mark.xdist_group("page")

ASTRAL = "🎼 𝔄𝔅ℭ stand before the first sentence. "
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script> is what this note says."


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, service):
    with visiting(browser, service.url) as page:
        yield page


@pytest.fixture(scope="module")
def axe(request):
    return axe_source(request.config.cache.mkdir("axe"))


def real(clara, root):
    """A service with the engine that `openclara serve` runs."""
    settings = Settings(state=root / ".openclara")
    return serving(clara, root=root, settings=settings, make_engine=ClaraEngine)


def ask(page, question="Who designed the opera house?"):
    page.fill("#question", question)
    page.keyboard.press("Enter")
    expect(page.locator(".column[data-state=done]").first).to_be_visible()


def files(**texts):
    return [
        {"name": name.replace("_", "."), "mimeType": "text/plain", "buffer": text.encode()}
        for name, text in texts.items()
    ]


def test_an_index_is_made_filled_and_asked(browser, clara, tmp_path):
    with real(clara, tmp_path) as running, visiting(browser, running.url) as page:
        page.goto(running.url)
        expect(page.get_by_role("heading", name="Create an index first")).to_be_visible()
        page.get_by_label("Name").fill("notes")
        page.get_by_role("button", name="Create").click()
        expect(page.locator("#list-summary")).to_contain_text("No documents yet")

        page.set_input_files(
            "#files", files(opera_txt="Utzon designed the opera house.", film_mov="\0\1\2")
        )
        expect(page.locator(".job-title")).to_contain_text("Added 1 document")
        left_out = page.locator(".job li").text_content()
        assert left_out.count("film.mov") == 1
        assert len(left_out) > len("film.mov ")  # it says why
        expect(page.locator("#document-list .title")).to_have_text(["opera"])

        page.get_by_role("link", name="Ask").click()
        expect(page.locator("#ask-empty")).to_contain_text("1 document in")
        ask(page)
        expect(page.locator("#source-list .title").first).to_have_text("opera")


def test_the_answer_is_written_as_it_comes_and_measured(page, service):
    page.goto(service.url)
    service.call(service.engine.hold)
    page.fill("#question", "Who designed the opera house?")
    page.keyboard.press("Enter")
    expect(page.locator(".card").first).to_be_visible()  # the sources are there before the answer
    expect(page.locator(".column")).to_have_attribute("data-state", "writing")
    expect(page.locator("#ask-button")).to_have_text("Stop")
    assert page.locator("#spoken").text_content() == ""

    service.call(service.engine.go_on)
    expect(page.locator(".column")).to_have_attribute("data-state", "done")
    answer = page.locator(".answer").text_content()
    assert answer
    assert page.locator("#spoken").text_content() == f"From latents: {answer}"
    meter = page.locator(".meter")
    expect(meter).to_contain_text("full text")
    expect(meter).to_contain_text("in effect")
    expect(meter).to_contain_text("ms")


def test_stop_ends_the_answer_and_keeps_the_sources(page, service):
    page.goto(service.url)
    service.call(service.engine.hold)
    page.fill("#question", "Who designed the opera house?")
    page.keyboard.press("Enter")
    expect(page.locator(".card").first).to_be_visible()
    page.locator("#ask-button").click()
    expect(page.locator(".note")).to_have_text("Stopped")
    expect(page.locator("#ask-button")).to_have_text("Ask")
    service.call(service.engine.go_on)
    ask(page, "Where is the river?")


def test_a_source_opens_at_the_cited_span(page, service):
    text = ASTRAL * 30 + "The organ has 10,244 pipes. " + "More follows here. " * 60
    service.client.post("/v1/documents?index=docs", json={"documents": [{"id": "o", "text": text}]})
    page.goto(service.url)
    page.click("summary >> text=Options")
    page.select_option("#option-mode", "lexical")
    page.fill("#option-where", "id=o")
    ask(page, "How many organ pipes?")
    hit = service.client.post(
        "/v1/search",
        json={"question": "How many organ pipes?", "mode": "lexical", "where": ["id=o"]},
    ).json()["hits"][0]
    assert hit["start"] > 0

    page.locator("#source-list .title").first.click()
    mark = page.locator(".document-text mark")
    assert mark.text_content() == hit["text"]
    assert page.locator(".document-text").text_content() == text
    expect(mark).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.locator("#source-list .title").first).to_be_focused()


def test_a_document_is_shown_as_text_whatever_it_holds(page, service):
    service.client.post(
        "/v1/documents?index=docs",
        json={"documents": [{"id": "<b>x</b>", "text": HOSTILE, "title": HOSTILE}]},
    )
    page.goto(f"{service.url}/#/docs/documents")
    page.on("dialog", lambda dialog: pytest.fail("a script of a document ran"))
    page.locator("#document-list .title", has_text="onerror").click()
    expect(page.locator(".document-text")).to_have_text(HOSTILE)
    assert page.locator("#dialog img, #dialog script, #documents img").count() == 0


def test_side_by_side_asks_from_the_full_text_and_from_nothing(page, service):
    page.goto(service.url)
    ask(page)
    first = page.locator(".answer").text_content()
    page.get_by_role("switch").click()
    columns = page.locator(".column[data-state=done]")
    expect(columns).to_have_count(3)
    assert page.locator(".answer").first.text_content() == first  # it was not asked again
    read = [int(one.replace(",", "")) for one in page.locator(".meter strong").all_text_contents()]
    latents, full, nothing = read
    assert nothing < latents < full
    page.get_by_role("switch").click()
    expect(page.locator(".column")).to_have_count(1)


def test_explain_shows_what_the_latents_decode_to(page, service):
    page.goto(service.url)
    ask(page)
    page.get_by_role("button", name="Explain").first.click()
    expect(page.locator(".latents h3")).to_have_text(["The question", "The passage"])
    rows = page.locator(".latents tbody tr")
    assert rows.count() == 2 * 4  # as many latents as the index keeps, of each side
    latent = page.get_by_role("button", name="show where in the text").first
    latent.focus()
    expect(page.locator(".inspected mark")).to_have_count(1)


def test_deleting_asks_first(page, service):
    page.goto(f"{service.url}/#/docs/documents")
    titles = page.locator("#document-list .title")
    expect(titles).to_have_count(3)
    page.get_by_role("button", name="Delete Train").click()
    page.get_by_role("button", name="Keep").click()
    assert service.client.get("/v1/documents/train?index=docs").status_code == 200
    page.get_by_role("button", name="Delete Train").click()
    page.get_by_role("button", name="Delete the document").click()
    expect(titles).to_have_count(2)
    assert service.client.get("/v1/documents/train?index=docs").status_code == 404

    page.get_by_role("button", name="Delete this index").click()
    page.get_by_role("button", name="Delete the index").click()
    expect(page.get_by_role("heading", name="Create an index first")).to_be_visible()


def test_documents_are_found_by_words_and_by_filters(page, service):
    page.goto(f"{service.url}/#/docs/documents")
    titles = page.locator("#document-list .title")
    for wanted, found in (("York", "Train"), ("year>=2000", "Angara"), ("id~oper", "Opera")):
        page.fill("#find-text", wanted)
        page.keyboard.press("Enter")
        expect(titles).to_have_text([found])


def test_long_lists_have_pages(page, service, wait_for):
    more = [{"id": f"note-{at:02}", "text": f"Note {at}."} for at in range(27)]
    wait_for(service.client.post("/v1/documents?index=docs", json={"documents": more}).json())
    page.goto(f"{service.url}/#/docs/documents")
    expect(page.locator("#page-place")).to_have_text("1–25 of 30")
    page.get_by_role("button", name="Later").click()
    expect(page.locator("#page-place")).to_have_text("26–30 of 30")
    expect(page.get_by_role("button", name="Later")).to_be_disabled()
    expect(page.locator("#document-list li")).to_have_count(5)


def test_everything_on_the_way_to_a_source_is_done_by_keyboard(page, service):
    page.goto(service.url)
    expect(page.locator("#question")).to_be_focused()
    page.locator("#theme-button").focus()
    page.keyboard.press("/")
    expect(page.locator("#question")).to_be_focused()
    ask(page, "Where does the river flow?")
    titles = page.locator("#source-list .title")
    for _ in range(12):
        if titles.first.evaluate("one => one === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(titles.first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(titles.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(titles.nth(1)).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(titles.first).to_be_focused()


def test_recent_questions_are_kept_and_nothing_else(page, service):
    page.goto(service.url)
    ask(page, "Where does the river flow?")
    page.reload()
    page.click("summary >> text=Recent questions")
    page.get_by_role("button", name="Where does the river flow?").click()
    expect(page.locator(".column[data-state=done]")).to_be_visible()
    kept = page.evaluate("Object.entries(localStorage)")
    assert [(name, json.loads(value)) for name, value in kept] == [
        ("openclara.questions", ["Where does the river flow?"])
    ]


def test_the_theme_stays_chosen(page, service):
    page.goto(service.url)
    dark = "getComputedStyle(document.body).backgroundColor"
    as_system = page.evaluate(dark)
    for _ in range(2):
        page.locator("#theme-button").click()
    chosen = page.evaluate(dark)
    assert chosen != as_system
    page.reload()
    assert page.evaluate(dark) == chosen


def test_an_error_is_one_sentence_where_it_happens(page, service):
    page.goto(service.url)
    page.locator("#ask-button").click()
    expect(page.locator("#ask-error")).to_have_text("The question is empty; write one first.")
    page.click("summary >> text=Options")
    page.fill("#option-where", "nonsense")
    ask(page)
    expect(page.locator(".column .error")).to_contain_text("The filter 'nonsense' cannot be read")
    expect(page.locator("#ask-button")).to_have_text("Ask")
    page.watched.problems.clear()  # the browser itself reports the 400

    service.stop()
    ask(page)
    expect(page.locator(".column .error")).to_contain_text("The server does not answer")
    page.watched.problems.clear()


def test_a_key_is_asked_for_until_it_is_known(browser, guarded):
    running, secrets = guarded
    with visiting(browser, running.url) as page:
        page.goto(running.url)
        expect(page.get_by_role("dialog")).to_contain_text("This server wants an API key")
        page.get_by_role("textbox", name="API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text("does not know this key")
        page.get_by_role("textbox", name="API key").fill(secrets["read"])
        page.keyboard.press("Enter")
        ask(page)
        page.get_by_role("link", name="Documents").click()
        expect(page.locator("#document-list li")).to_have_count(3)
        expect(page.locator("#drop")).to_be_hidden()  # the key may only read
        expect(page.get_by_role("button", name="Delete Train")).to_have_count(0)
        assert page.evaluate("localStorage.getItem('openclara.key')") is None
        page.watched.problems.clear()  # the browser itself reports the 401s


def test_nothing_moves_while_an_answer_is_written(page, service):
    page.goto(service.url)
    page.evaluate(
        """() => {
          window.moved = 0;
          new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) window.moved += entry.value;
          }).observe({ type: "layout-shift" });
        }"""
    )
    service.call(service.engine.hold)
    page.fill("#question", "Who designed the opera house?")
    page.keyboard.press("Enter")
    expect(page.locator(".card").first).to_be_visible()
    page.evaluate("window.moved = 0")
    before = page.locator("#source-list").bounding_box()
    service.call(service.engine.go_on)
    expect(page.locator(".column")).to_have_attribute("data-state", "done")
    assert page.locator("#source-list").bounding_box() == before
    assert page.evaluate("window.moved") < 0.1  # what is called good for a whole visit


VIEWS = ("ask", "answer", "options", "beside", "reader", "explain", "documents", "confirm", "new")


def each_view(page, url):
    """Walk through the page; yields the name of each view while it is shown."""
    page.goto(url)
    expect(page.locator("#ask-empty")).to_contain_text("Ask something")
    yield "ask"
    ask(page)
    yield "answer"
    page.click("summary >> text=Options")
    yield "options"
    page.keyboard.press("Escape")
    page.get_by_role("switch").click()
    expect(page.locator(".column[data-state=done]")).to_have_count(3)
    yield "beside"
    page.locator("#source-list .title").first.click()
    expect(page.locator(".document-text mark")).to_be_visible()
    yield "reader"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Explain").first.click()
    expect(page.locator(".latents").first).to_be_visible()
    yield "explain"
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Documents").click()
    page.set_input_files("#files", files(note_txt="A note.", film_mov="\0\1"))
    expect(page.locator(".job-title")).to_contain_text("Added")
    expect(page.locator("#document-list li").first).to_be_visible()
    yield "documents"
    page.locator("#document-list .danger").first.click()
    yield "confirm"
    page.keyboard.press("Escape")
    page.locator("#new-index").click()
    yield "new"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_view(browser, clara, root, axe, scheme):
    with real(clara, root) as running, visiting(browser, running.url, scheme=scheme) as page:
        found = {view: violations(page, axe) for view in each_view(page, running.url)}
    assert found == {view: [] for view in VIEWS}


def test_no_view_is_wider_than_a_small_phone(browser, clara, root):
    with real(clara, root) as running, visiting(browser, running.url, size=NARROW) as page:
        wider = [
            view
            for view in each_view(page, running.url)
            if page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        ]
    assert wider == []
