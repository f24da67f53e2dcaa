/* Makes the devices pages nicer. Without it they work, and their times are in UTC. */
"use strict";

(() => {
  const DAY = 24 * 60 * 60 * 1000;
  const language = languageOf(document.documentElement.lang);
  const dateFormat = new Intl.DateTimeFormat(language, { dateStyle: "medium" });
  const timeFormat = new Intl.DateTimeFormat(language, { timeStyle: "short" });
  const dayFormat = new Intl.RelativeTimeFormat(language, { numeric: "auto" });

  /* The page's language, in the form of the reader's region: "en-GB" for "en". If the page names no
     language, it is the browser's. */
  function languageOf(page) {
    const base = page.split("-")[0];
    return navigator.languages.find((own) => own.split("-")[0] === base) || supported(page);
  }

  function supported(name) {
    try {
      return Intl.DateTimeFormat.supportedLocalesOf(name)[0];
    } catch {
      return undefined;
    }
  }

  /* "today, 17:53", "yesterday, 17:53" or "20 Nov 2026, 17:53", in the reader's time zone. */
  function inWords(moment) {
    const midnight = (date) => new Date(date).setHours(0, 0, 0, 0);
    const days = Math.round((midnight(moment) - midnight(Date.now())) / DAY);
    const day = Math.abs(days) <= 1 ? dayFormat.format(days, "day") : dateFormat.format(moment);
    return `${day}, ${timeFormat.format(moment)}`;
  }

  for (const time of document.querySelectorAll(".kvs time")) {
    time.textContent = inWords(new Date(time.dateTime));
  }

  /* Escape closes the details around the focus, else the open question. */
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    const open =
      document.activeElement.closest(".kvs details[open]") ||
      document.querySelector(".kvs .kvs-confirm[open]");
    if (!open) return;
    open.open = false;
    open.querySelector("summary").focus();
  });

  /* A browser may go back to a page that it has kept in memory: that page's list is out of date. */
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });
})();
