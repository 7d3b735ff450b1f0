"use strict";

/* The address after '#' says what is shown: overview, latents, latent/12, heatmap or setup. */
(function (s) {
  const title = document.title;
  const ready = s.load("index").then(s.table.start);
  let latent = null;

  function route() {
    const [name, argument] = window.location.hash.slice(1).split("/");
    const view = document.getElementById(`view-${name}`) ? name : "overview";
    reveal(view);
    const work = view === "latent" ? showLatent(argument) : view === "latents" ? showTable() : view === "heatmap" ? s.heatmap.show() : leave();
    Promise.resolve(work).catch(s.fail);
  }

  function reveal(view) {
    for (const section of document.querySelectorAll("main > section")) section.hidden = section.dataset.view !== view;
    for (const tab of document.querySelectorAll(".tabs a")) {
      const here = tab.dataset.view === view || (view === "latent" && tab.dataset.view === "latents");
      if (here) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    document.title = title;
    document.getElementById("failure").hidden = true;
    if (view !== "latents") window.scrollTo({ top: 0 });
  }

  async function showLatent(argument) {
    latent = /^\d+$/.test(argument) ? Number(argument) : Infinity;
    document.title = `Latent ${argument} · ${title}`;
    await ready;
    await s.latent.show(latent);
  }

  async function showTable() {
    await ready;
    const last = latent;
    latent = null;
    if (last !== null) s.table.reveal(last);
  }

  function leave() {
    latent = null;
  }

  function isTyping(event) {
    return event.target.matches?.("input[type=search]") || event.ctrlKey || event.metaKey || event.altKey;
  }

  function press(id) {
    const link = document.getElementById(id);
    if (link?.href) window.location.hash = link.hash;
  }

  const KEYS = {
    latent: { ArrowLeft: () => press("previous"), ArrowRight: () => press("next"), Escape: () => (window.location.hash = "#latents") },
    latents: {
      ArrowLeft: () => s.table.turn(-1),
      ArrowRight: () => s.table.turn(1),
      ArrowUp: () => s.table.moveFocus(-1),
      ArrowDown: () => s.table.moveFocus(1),
    },
  };

  function findSearch() {
    window.location.hash = "#latents";
    // Only once the view is shown can its field take the focus.
    setTimeout(() => document.getElementById("search").focus(), 0);
  }

  document.addEventListener("keydown", (event) => {
    if (isTyping(event)) return;
    const view = [...document.querySelectorAll("main > section")].find((section) => !section.hidden).dataset.view;
    const action = event.key === "/" ? findSearch : KEYS[view]?.[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  document.getElementById("search").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "Enter") return;
    event.preventDefault();
    s.table.moveFocus(1);
  });

  window.addEventListener("hashchange", route);
  s.load("overview").then(s.drawOverview).catch(s.fail);
  ready.catch(s.fail);
  route();
})(window.saemill);
