"use strict";
// A page that is alive renews its parts: each element with an id inside <main> whose content has changed.
// So what has the keyboard's focus stays where it is, and a form that somebody has opened stays open.
const PARTS = "main > div[id]";

async function renew() {
  try {
    const answer = document.hidden ? null : await fetch(location.href);
    const page = answer && new DOMParser().parseFromString(await answer.text(), "text/html");
    if (answer && answer.status === 401) return document.body.replaceWith(page.body);  // it asks for a token
    if (answer && !answer.ok) throw new Error(answer.status);
    if (answer) put(page);
    document.getElementById("lost").hidden = true;
  } catch {
    document.getElementById("lost").hidden = false;
  }
  later();
}

function put(page) {
  for (const part of document.querySelectorAll(PARTS)) {
    const now = page.getElementById(part.id);
    if (now && now.outerHTML !== part.outerHTML && !part.querySelector("details[open]")) part.replaceWith(now);
  }
}

function later() {
  const live = document.querySelector("[data-live]");
  if (live) setTimeout(renew, Number(live.dataset.live));
}

// A second click while the first one is on its way would begin a second move.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});
addEventListener("pageshow", (event) => event.persisted && location.reload());
later();
