// Renews the figures of the page "now" every two seconds, unless it is paused or hidden.
"use strict";

const figures = document.getElementById("figures");
const pause = document.getElementById("pause");
let paused = false;

async function renew() {
  const response = await fetch(figures.dataset.source, { cache: "no-store" });
  if (response.redirected || response.status === 401) {
    location.reload(); // The session has ended.
  } else if (response.ok) {
    const part = new DOMParser().parseFromString(await response.text(), "text/html");
    figures.replaceChildren(...part.body.childNodes);
  }
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
});

setInterval(() => {
  if (!paused && !document.hidden && !figures.contains(document.activeElement)) {
    renew().catch(() => {}); // A gateway that restarts answers again soon.
  }
}, 2000);
