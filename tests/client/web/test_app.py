"""The page without JavaScript: every action a form, every answer to a form an address, every mistake a sentence."""

import csv
import io
import json
import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from client.policy.learner import LearnSettings
from client.policy.stream import StreamSettings
from client.ratings import Choice, Glance, Stars
from client.web.deck import Deck


class Visitor:
    """A browser without JavaScript."""

    def __init__(self, app: FastAPI, address: str) -> None:
        self.deck: Deck = app.state.deck
        self.browser = httpx.Client(base_url=address, follow_redirects=True, timeout=30)
        assert self.browser.get(f"/?token={'t' * 43}").url.query == b""

    def see(self, path: str, status: int = 200) -> str:
        reply = self.browser.get(path)
        assert reply.status_code == status
        return reply.text

    def send(self, path: str, status: int = 200, **form: str) -> str:
        reply = self.browser.post(path, data=form, headers={"origin": "null", "sec-fetch-site": "same-origin"})
        assert reply.status_code == status
        return reply.text

    @property
    def question(self) -> str:
        found = re.search(r'name="question" value="([^"]+)"', self.see("/"))
        assert found is not None
        return found[1]

    def answer(self, answer: str = "a", seconds: str = "") -> str:
        return self.send("/answer", question=self.question, answer=answer, seconds=seconds)

    def picture(self) -> str:
        """Name of the first picture on the screen."""
        return self.deck.current().pictures[0]


@pytest.fixture
def visitor(page: tuple[FastAPI, str]) -> Iterator[Visitor]:
    visitor = Visitor(*page)
    yield visitor
    visitor.browser.close()


def test_an_answer_is_a_form_that_leads_back_to_the_page(visitor: Visitor) -> None:
    question = visitor.question
    reply = visitor.browser.post("/answer", data={"question": question, "answer": "b"}, follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (303, "/")
    page = visitor.see("/")
    assert "1 of about 40" in page
    assert "You chose B." in page
    assert visitor.question != question


def test_the_same_form_twice_is_one_answer(visitor: Visitor) -> None:
    question = visitor.question
    visitor.send("/answer", question=question, answer="a")
    visitor.send("/answer", question=question, answer="a")
    assert "answered already" in visitor.send("/answer", question=question, answer="b")
    assert len(visitor.deck.session.history) == 1


def test_what_is_asked_is_what_is_recorded(visitor: Visitor) -> None:
    left, right = visitor.deck.current().items
    visitor.answer("a")
    visitor.send("/mode", mode="stars")
    item = visitor.deck.current().items[0]
    visitor.answer("4")
    assert [rated.rating for rated in visitor.deck.session.history] == [Choice(left, right, "a"), Stars(item, 4)]


def test_scores_stay_hidden_until_after_the_answer(visitor: Visitor) -> None:
    visitor.answer()
    page, name = visitor.see("/"), visitor.picture()
    assert "%" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", page)
    assert "stays hidden" in visitor.see(f"/items/{name}")
    visitor.answer()
    assert "likely that you like it" in visitor.see(f"/items/{name}")


def test_undo_redo_skip_and_more_work_by_forms(visitor: Visitor) -> None:
    visitor.answer("both")
    assert "Which one do you like more?" in visitor.send("/undo")
    assert visitor.deck.session.history == []
    visitor.send("/redo")
    assert len(visitor.deck.session.history) == 1
    assert "Skipped." in visitor.send("/skip", question=visitor.question)
    assert len(visitor.deck.session.history) == 1
    assert "More like item" in visitor.send("/more", item=visitor.picture())
    assert "There is nothing to give again." in visitor.send("/redo")


def test_favourites_are_kept_shown_and_let_go(visitor: Visitor) -> None:
    name = visitor.picture()
    visitor.send("/favourite", item=name)
    visitor.send("/favourite", item=name)
    assert visitor.see("/favourites").count(f'href="/items/{name}"') == 1
    page = visitor.send("/unfavourite", item=name, back="/favourites")
    assert "Nothing here yet" in page


@pytest.mark.parametrize(
    "back", ["//evil.example", "http://evil.example/", "/\\evil.example", "javascript:1", "/a/b/c"]
)
def test_a_form_never_leads_to_another_page(visitor: Visitor, back: str) -> None:
    form = {"item": visitor.picture(), "back": back}
    reply = visitor.browser.post("/favourite", data=form, follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (303, "/")


def test_the_wall_of_somebody_unknown_says_what_to_do(visitor: Visitor) -> None:
    assert "I know nothing about you yet" in visitor.see("/wall")
    assert "I know nothing about you yet" in visitor.send("/wall", surprise="0.5")
    assert visitor.deck.wall is None


def test_the_wall_is_made_and_made_again_at_another_level(visitor: Visitor) -> None:
    for _ in range(3):
        visitor.answer()
    first = visitor.see("/wall")
    assert first.count("-medium.jpg") == 12
    assert visitor.see("/wall") == first  # nothing new until somebody asks
    again = visitor.send("/wall", surprise="1")
    assert 'value="1.0"' in again
    names = re.compile(r"/pictures/(\S+)-medium")
    assert set(names.findall(again)).isdisjoint(names.findall(first))
    visitor.send("/wall", status=422, surprise="1.5")
    visitor.send("/wall", status=422, surprise="nan")


def test_history_shows_every_rating_and_deletes_one_for_good(visitor: Visitor) -> None:
    assert "No ratings yet" in visitor.see("/history")
    for answer in ("a", "neither", "b"):
        visitor.answer(answer)
    page = visitor.see("/history")
    assert [page.index(words) for words in ("B rather than A", "neither", "A rather than B")] == sorted(
        page.index(words) for words in ("B rather than A", "neither", "A rather than B")
    )
    event = visitor.deck.session.history[1].event
    page = visitor.send("/history/remove", event=str(event))
    assert "deleted for good" in page
    assert f'value="{event}"' not in page
    assert len(visitor.deck.session.history) == 2
    assert "look there for its number" in visitor.send("/history/remove", status=404, event=str(event))
    assert "page=2" not in page
    assert "1 of 1" not in visitor.see("/history?page=99")


def test_the_map_shows_every_rated_picture_inside_its_frame(visitor: Visitor) -> None:
    assert "fills with the pictures" in visitor.see("/map")
    for _ in range(3):
        visitor.answer()
    page = visitor.see("/map")
    places = re.findall(r'<image href="(\S+)" x="(\S+)" y="(\S+)" width="(\S+)"', page)
    assert len(places) == 6
    for address, x, y, side in places:
        assert 0 <= float(x) <= 1000 - float(side)
        assert 0 <= float(y) <= 700 - float(side)
        assert visitor.browser.get(address).status_code == 200


def test_a_picture_is_saved_clean_or_with_what_made_it_and_never_with_a_rating(visitor: Visitor) -> None:
    name = visitor.picture()
    item = visitor.deck.session.item(int(name.split("-")[0]))
    visitor.answer("a")
    clean = visitor.browser.get(f"/save/{name}")
    assert clean.headers["content-disposition"] == f'attachment; filename="art-{item.id}.png"'
    picture = Image.open(io.BytesIO(clean.content))
    assert (picture.format, picture.size, getattr(picture, "text", None)) == ("PNG", (1024, 1024), {})
    full = Image.open(io.BytesIO(visitor.browser.get(f"/save/{name}?recipe=true").content))
    texts: dict[str, str] = full.text  # type: ignore[attr-defined]
    assert set(texts) == {"plgl:latent", "plgl:generator", "plgl:pack", "plgl:item"}
    assert json.loads(texts["plgl:latent"]) == item.latent.tolist()
    assert texts["plgl:generator"] == visitor.deck.session.pack.hash
    assert texts["plgl:item"] == str(item.id)


def test_exports_hold_the_answers_and_not_what_was_only_noticed(visitor: Visitor) -> None:
    visitor.send("/settings/noticing", on="yes")
    visitor.send("/mode", mode="stars")
    visitor.answer("5", seconds="2.5")
    assert [type(rated.rating) for rated in visitor.deck.session.history] == [Stars, Glance]
    reply = visitor.browser.get("/export.json")
    assert reply.headers["content-disposition"] == 'attachment; filename="plgl-ratings.json"'
    content = reply.json()
    assert [row["kind"] for row in content["ratings"]] == ["stars"]
    assert content["pack"]["sha256"] == visitor.deck.session.pack.hash
    assert {"program", "written", "seed", "format", "items"} <= set(content)
    assert [row["kind"] for row in visitor.browser.get("/export.json?noticed=true").json()["ratings"]] == [
        "stars",
        "glance",
    ]
    rows = list(csv.DictReader(io.StringIO(visitor.browser.get("/export.csv").text)))
    assert [(row["kind"], row["value"], row["answer"]) for row in rows] == [("stars", "5", "5")]


def test_a_name_that_is_a_formula_is_none_in_the_table(visitor: Visitor) -> None:
    visitor.send("/settings/person", profile="=1+1", context="@night")
    visitor.answer()
    row = next(csv.DictReader(io.StringIO(visitor.browser.get("/export.csv").text)))
    assert (row["profile"], row["context"]) == ("'=1+1", "'@night")


def test_noticing_is_off_until_asked_for_and_then_has_a_mark_on_every_page(visitor: Visitor) -> None:
    assert 'class="mark"' not in visitor.see("/")
    visitor.send("/settings/noticing", on="yes")
    for path in ("/", "/wall", "/history", "/settings"):
        assert 'class="mark"' in visitor.see(path)
    visitor.send("/settings/noticing", on="no")
    assert 'class="mark"' not in visitor.see("/")
    visitor.send("/settings/noticing", status=422, on="maybe")


def test_person_and_situation_change_and_bad_names_are_refused(visitor: Visitor) -> None:
    visitor.answer()
    page = visitor.send("/settings/person", profile="  Ann  Lee ", context="late <b>")
    assert "Now rating: Ann Lee, late &lt;b&gt;." in page
    assert "0 of about 40" in visitor.see("/")
    assert '<option value="me">' in visitor.see("/settings")
    for profile in ("", " ", "x" * 41, "a\u202eb", "a\x00b"):
        visitor.send("/settings/person", status=422, profile=profile)
    assert visitor.deck.session.profile == "Ann Lee"


def test_everything_is_deleted_only_after_the_word(visitor: Visitor) -> None:
    visitor.answer()
    for word in ("", "yes", "delete it"):
        assert "Nothing was deleted" in visitor.send("/forget", word=word)
    assert len(visitor.deck.session.history) == 1
    reply = visitor.browser.post("/forget", data={"word": "delete"})
    assert "Everything is deleted" in reply.text
    assert reply.headers["clear-site-data"] == '"cache", "storage"'
    assert visitor.deck.session.history == []
    assert "0 of about 40" in visitor.see("/")


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("/answer", {}, 422),
        ("/answer", {"question": "x", "answer": "a" * 65}, 422),
        ("/favourite", {"item": "99999-aaaaaaaaaaaa"}, 404),
        ("/favourite", {"item": "-1"}, 404),
        ("/more", {"item": "0-zzzzzzzzzzzz"}, 404),
        ("/more", {"item": "9" * 60}, 404),
        ("/mode", {"mode": "guess"}, 422),
        ("/history/remove", {"event": "x"}, 422),
        ("/history/remove", {"event": "9" * 5000}, 422),
        ("/nowhere", {}, 404),
    ],
)
def test_a_form_that_makes_no_sense_is_a_sentence_and_changes_nothing(
    visitor: Visitor, path: str, form: dict[str, str], status: int
) -> None:
    visitor.answer()
    before = visitor.deck.session.export()
    page = visitor.send(path, status=status, **form)
    assert 'role="alert"' in page
    assert visitor.deck.session.export()["ratings"] == before["ratings"]
    assert visitor.deck.session.export()["favourites"] == before["favourites"]


@pytest.mark.parametrize("path", ["/items/0", "/pictures/0-big.jpg", "/pictures/x", "/save/..%2f..%2fetc", "/nowhere"])
def test_an_address_that_makes_no_sense_is_a_sentence(visitor: Visitor, path: str) -> None:
    assert 'role="alert"' in visitor.see(path, 404)


def test_with_htmx_only_the_deck_comes_back_and_mistakes_stay_on_the_page(visitor: Visitor) -> None:
    htmx = {"HX-Request": "true"}
    reply = visitor.browser.post("/answer", data={"question": visitor.question, "answer": "a"}, headers=htmx)
    assert reply.text.lstrip().startswith('<div id="deck"')
    assert "<html" not in reply.text
    wrong = visitor.browser.post("/more", data={"item": "99999-aaaaaaaaaaaa"}, headers=htmx)
    assert wrong.status_code == 200
    assert "was never shown" in wrong.text


def test_the_next_pictures_are_offered_to_the_browser(visitor: Visitor) -> None:
    visitor.see("/")
    visitor.deck.wait_ahead(20)
    page = visitor.see("/ahead")
    for question in visitor.deck.ahead:
        for name in question.pictures:
            assert f'id="big-{name}"' in page
            assert visitor.browser.get(f"/pictures/{name}-big.jpg").headers["cache-control"] == "no-store"


def test_every_picture_says_which_item_it_is(visitor: Visitor) -> None:
    visitor.answer()
    for path in ("/", "/wall", "/history", f"/items/{visitor.picture()}"):
        images = re.findall(r"<img[^>]*>", visitor.see(path))
        assert images
        assert all(re.search(r'alt="[^"]*[Ii]tem \d+', image) for image in images)


def test_no_page_has_script_or_style_inside_or_names_another_host(visitor: Visitor) -> None:
    visitor.answer()
    for path in ("/", "/wall", "/favourites", "/history", "/map", "/settings", "/help", f"/items/{visitor.picture()}"):
        page = visitor.see(path)
        assert re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=\"/static/)", page) is None
        assert re.search(r"\s(?:src|href|action)=\"(?!/|#)", page) is None


def test_a_wall_goes_on_without_end_once_that_is_learned(visitor: Visitor) -> None:
    visitor.deck.endless.settings = StreamSettings(
        couplings=2, width=4, members=0, held_out=0.0, learn=LearnSettings(rounds=1, steps=1, batch=16, groups=4)
    )
    for _ in range(8):
        visitor.answer()
    tiles = visitor.see("/wall").count('class="tile')
    waiting = visitor.send("/wall/more")
    assert "Learning what you like" in waiting or "More, without end" in waiting
    visitor.deck.endless.wait(60)
    found = visitor.browser.get("/wall/learning")
    assert found.headers["hx-refresh"] == "true"
    assert visitor.see("/wall").count('class="tile') == tiles + 12
    assert visitor.send("/wall/more").count('class="tile') == tiles + 24


def test_a_wall_that_cannot_go_on_says_why(visitor: Visitor) -> None:
    visitor.answer()
    visitor.send("/wall/more")
    visitor.deck.endless.wait(60)
    assert "1 answer is too few for a stream" in visitor.send("/wall/more")


def test_a_newcomers_wall_shows_what_everybody_likes_and_goes_on(crowded_page: tuple[FastAPI, str]) -> None:
    newcomer = Visitor(*crowded_page)
    wall = newcomer.see("/wall")
    assert "Suggestions from the crowd" in wall
    assert "You have not rated anything yet" in wall
    assert wall.count('class="tile') == 12
    assert " %" not in re.sub(r"<style.*?</style>", "", wall)
    assert newcomer.send("/wall/more").count('class="tile') == 24
    assert newcomer.send("/wall", surprise="1").count('class="tile') == 12
    newcomer.browser.close()
