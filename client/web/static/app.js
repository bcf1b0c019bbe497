// Keys, swipes, and how long somebody looks. Every action is a button of a form; this only presses them.
"use strict";

const SWIPE = 60; // pixels a finger travels before it is an answer
const LONGEST = 20; // seconds of looking that count; the server caps them too

const deck = () => document.getElementById("deck");
const help = () => document.getElementById("help");

// -- what is pointed at: a picture the mouse moved over since the question came, or the one with the focus

let pointed = null;

function point(picture) {
  if (pointed === picture) return;
  if (pointed) pointed.classList.remove("pointed");
  pointed = picture;
  if (pointed) pointed.classList.add("pointed");
}

document.addEventListener("pointermove", (event) => {
  if (event.pointerType !== "mouse" || (!event.movementX && !event.movementY)) return;
  point(event.target.closest(".stage [data-picture]"));
});
document.addEventListener("focusin", (event) => point(event.target.closest(".stage [data-picture]")));

// -- keys

function named(event) {
  const held = `${event.ctrlKey || event.metaKey ? "ctrl+" : ""}${event.shiftKey && event.ctrlKey ? "shift+" : ""}`;
  return held + event.key.toLowerCase();
}

function button(action) {
  const wanted = `[data-action="${action}"]:not(:disabled)`;
  const about = action === "favourite" || action === "more";
  const places = about
    ? [pointed, document.querySelector(".pictures.count-1"), document.querySelector("[data-last]"), document.querySelector("main")]
    : [deck()];
  for (const place of places) {
    const found = place && place.isConnected && place.querySelectorAll(wanted);
    // of several pictures nobody can know which one is meant
    if (found && found.length === 1) return found[0];
  }
  return null;
}

function toggleHelp() {
  if (help().open) help().close();
  else help().showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.repeat || event.isComposing) return;
  const at = document.activeElement;
  if (at && at.matches("input, textarea, select, audio")) return; // a player has keys of its own
  if (event.key === "?") return event.preventDefault(), toggleHelp();
  const keys = deck() && deck().dataset.keys;
  if (!keys || help().open) return;
  const action = JSON.parse(keys)[named(event)];
  if (!action) return;
  // a button that was reached with the keyboard keeps its own keys
  if ((event.key === "Enter" || event.key === " ") && at && at.matches("button, a, summary")) return;
  event.preventDefault();
  if (deck().classList.contains("htmx-request") || document.querySelector(".stage.htmx-request")) return;
  const found = button(action);
  if (found) found.click();
  else if (action === "favourite" || action === "more") tell("Point at a picture first, or choose one.");
});

document.addEventListener("click", (event) => {
  const opener = event.target.closest('a[data-action="help"]');
  if (opener && !event.ctrlKey && !event.metaKey) return event.preventDefault(), toggleHelp();
  if (event.target === help()) help().close();
  // the mouse leaves no focus behind, so that Space and Enter go on being keys of the page; htmx wants it until then
  const pressed = event.target.closest(".stage button");
  if (pressed && event.detail > 0) setTimeout(() => pressed.blur(), 0);
});

// -- sounds: one at a time, and the one that plays is the one that is pointed at

document.addEventListener("play", (event) => {
  for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
  point(event.target.closest(".stage [data-picture]"));
}, true);

// -- swipes

let finger = null;

document.addEventListener("pointerdown", (event) => {
  const picture = event.target.closest(".stage .pick");
  finger = picture && event.pointerType !== "mouse" && event.isPrimary ? { id: event.pointerId, x: event.clientX, y: event.clientY, picture, swiped: false } : null;
});
document.addEventListener("pointermove", (event) => {
  if (!finger || event.pointerId !== finger.id) return;
  const x = event.clientX - finger.x;
  if (Math.abs(x) > 12 && Math.abs(x) > Math.abs(event.clientY - finger.y)) {
    finger.swiped = true;
    finger.picture.style.transform = `translateX(${x}px) rotate(${x / 40}deg)`;
  }
});
function lift(event) {
  if (!finger || event.pointerId !== finger.id) return;
  const { x, picture, swiped } = finger;
  const gone = event.clientX - x;
  picture.style.transform = "";
  setTimeout(() => { finger = null; }, 0); // the click that follows a swipe is no press
  if (event.type === "pointerup" && swiped && Math.abs(gone) >= SWIPE) {
    const action = JSON.parse(deck().dataset.keys)[gone < 0 ? "arrowleft" : "arrowright"];
    const found = action && button(action);
    finger = null;
    if (found) found.click();
  }
}
document.addEventListener("pointerup", lift);
document.addEventListener("pointercancel", lift);
document.addEventListener("click", (event) => {
  if (finger && finger.swiped) { event.preventDefault(); event.stopPropagation(); }
}, true);

// -- how long somebody looks, if they agreed; not while the window is hidden

let seen = { question: null, since: 0, seconds: 0 };

function look() {
  const now = performance.now();
  const question = deck() ? deck().dataset.question : null;
  if (question !== seen.question) seen = { question, since: 0, seconds: 0 };
  if (seen.since) seen.seconds += (now - seen.since) / 1000;
  seen.since = document.visibilityState === "visible" ? now : 0;
}
document.addEventListener("visibilitychange", look);
document.addEventListener("click", (event) => {
  const stage = event.target.closest(".stage");
  if (!stage || !deck().hasAttribute("data-noticing")) return;
  look();
  stage.elements.seconds.value = Math.min(seen.seconds, LONGEST).toFixed(2);
}, true);

// -- questions that come and go

function arrived() {
  point(null);
  look();
  // decoded before they are wanted
  for (const image of document.querySelectorAll("#ahead img")) image.decode().catch(() => {});
}
document.addEventListener("htmx:afterSettle", arrived);
document.addEventListener("DOMContentLoaded", arrived);

function tell(text) {
  const place = document.getElementById("trouble");
  if (place) place.textContent = text;
}
for (const silence of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(silence, () => tell("The program does not answer. Start it again in its window; nothing you rated is lost."));
}
document.addEventListener("htmx:responseError", () => tell("The program did not accept that. Load the page again; nothing you rated is lost."));
document.addEventListener("htmx:beforeRequest", () => tell(""));

// -- the map: what is pointed at comes to the front

document.addEventListener("pointerover", (event) => {
  const place = event.target.closest(".map a");
  if (place && place !== place.parentNode.lastElementChild) place.parentNode.append(place);
});
