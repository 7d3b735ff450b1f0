"use strict";

/* The table of latents: filter, sort, page. Its order is also the order of previous and next in a latent's panel. */
(function (s) {
  const { h, number, styled } = s;
  const PAGE = 50;
  const byId = (id) => document.getElementById(id);
  const state = { index: null, sort: "latent", descending: false, query: "", dead: false, page: 0, order: [], matches: null };

  function start(index) {
    state.index = index;
    byId("n-dead").textContent = `(${number(index.columns.n_active.filter((n) => n === 0).length)})`;
    for (const button of document.querySelectorAll("[data-sort]")) button.addEventListener("click", () => sortBy(button.dataset.sort));
    byId("search").addEventListener("input", later(() => searchFor(byId("search").value), 90));
    byId("search").addEventListener("focus", () => s.search.prepare().catch(s.fail), { once: true });
    byId("show-dead").addEventListener("change", (event) => update({ dead: event.target.checked }));
    byId("page-back").addEventListener("click", () => turn(-1));
    byId("page-on").addEventListener("click", () => turn(1));
    byId("rows").addEventListener("click", openRow);
    update({});
  }

  function later(action, milliseconds) {
    let timer = 0;
    return () => {
      clearTimeout(timer);
      timer = setTimeout(action, milliseconds);
    };
  }

  function sortBy(key) {
    // Numbers are looked at from the large end, except the latent's own.
    const descending = key === state.sort ? !state.descending : key !== "latent";
    update({ sort: key, descending });
  }

  async function searchFor(query) {
    if (query.trim()) await s.search.prepare().catch(s.fail);
    if (query === byId("search").value) update({ query: query.trim() });
  }

  function update(changes) {
    Object.assign(state, changes, { page: 0 });
    state.matches = state.query ? s.search.find(state.query, state.index) : null;
    state.order = ordered();
    render();
  }

  function ordered() {
    const { n, columns } = state.index;
    const order = [];
    for (let i = 0; i < n; i++) if (isListed(i, columns.n_active[i])) order.push(i);
    if (state.sort !== "latent") sortByColumn(order, columns[state.sort], state.descending ? -1 : 1);
    else if (state.descending) order.reverse();
    else if (state.matches) return bestFirst(order);
    return order;
  }

  /** In the table's plain order, a search puts better kinds of match first. */
  function bestFirst(order) {
    return s.search.KINDS.flatMap((kind) => order.filter((latent) => state.matches.get(latent) === kind));
  }

  function sortByColumn(order, column, sign) {
    const value = (i) => column[i] ?? -sign * Infinity; // unknown values come last either way
    order.sort((a, b) => sign * (value(a) - value(b)) || a - b);
  }

  function isListed(latent, active) {
    if (state.matches === null) return state.dead || active > 0;
    const match = state.matches.get(latent);
    return match !== undefined && (state.dead || active > 0 || match === "number");
  }

  function pages() {
    return Math.max(1, Math.ceil(state.order.length / PAGE));
  }

  function turn(by) {
    const page = state.page + by;
    if (page < 0 || page >= pages()) return;
    state.page = page;
    render();
    window.scrollTo({ top: 0 });
  }

  function render() {
    const first = state.page * PAGE;
    const shown = state.order.slice(first, first + PAGE);
    byId("rows").replaceChildren(...shown.map(row));
    byId("no-rows").hidden = shown.length > 0;
    byId("page").textContent = shown.length ? `${number(first + 1)}–${number(first + shown.length)} of ${number(state.order.length)}` : "0 of 0";
    byId("page-back").disabled = state.page === 0;
    byId("page-on").disabled = state.page >= pages() - 1;
    byId("count").textContent = summary();
    byId("text-heading").textContent = state.query ? "First match" : `Strongest ${state.index.unit === "token" ? "context" : "row"}`;
    for (const button of document.querySelectorAll("[data-sort]")) markSorted(button);
  }

  function summary() {
    if (!state.query) return "";
    const part = s.search.isComplete() ? "" : ", strongest contexts only";
    return `${number(state.order.length)} ${state.order.length === 1 ? "match" : "matches"}${part}`;
  }

  function markSorted(button) {
    const sorted = button.dataset.sort === state.sort;
    const cell = button.closest("th");
    if (sorted) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }

  function row(latent) {
    const { columns, shown } = state.index;
    const dead = columns.n_active[latent] === 0;
    return h(
      "tr",
      { "data-latent": latent, class: dead ? "dead" : null },
      h("th", { scope: "row", class: "c-latent" }, h("a", { href: `#latent/${latent}`, text: latent })),
      h("td", { class: "c-text" }, h("div", { class: "line", dir: "auto" }, contextOf(latent, dead))),
      h("td", { class: "c-promotes" }, h("div", { class: "line" }, promotesOf(latent))),
      shown.map((column) => cell(column, columns[column.name][latent])),
    );
  }

  function cell(column, value) {
    const text = s.valueOf(column, value);
    if (column.style !== "density") return h("td", { class: "num", text });
    const bar = h("span", { class: "meter", "aria-hidden": "true" });
    // From one in a million to always, on a log scale.
    const part = value > 0 ? Math.max(0.02, 1 + Math.log10(value) / 6) : 0;
    return h("td", { class: "num c-density" }, text, styled(bar, "--part", part.toFixed(3)));
  }

  function contextOf(latent, dead) {
    const excerpt = state.query ? s.search.excerpt(state.query, latent) : null;
    if (excerpt) return [s.tokens.running(excerpt[0]), h("mark", {}, s.tokens.running(excerpt[1])), s.tokens.running(excerpt[2])].flat();
    const [before, peak, after] = state.index.snippets[latent];
    if (peak === undefined) return [h("span", { class: "muted", text: dead ? "never fired" : "no context kept" })];
    const [space, word] = s.tokens.split(peak);
    return [s.tokens.running(before), space, h("span", { class: "hot peak" }, s.tokens.visible(word)), s.tokens.running(after)].flat();
  }

  function promotesOf(latent) {
    const { unit, promotes, fires, strings } = state.index;
    const known = (unit === "token" ? promotes : fires)[latent].map((id) => strings[id]);
    if (!state.query || unit !== "token") return known.map(s.tokens.chip);
    const found = s.search.promoted(state.query, latent);
    const rest = known.filter((token) => !found.includes(token.trim()));
    return [...found.map((token) => h("mark", {}, s.tokens.chip(token))), ...rest.map(s.tokens.chip)];
  }

  function openRow(event) {
    const line = event.target.closest("tr");
    if (!line || event.target.closest("a") || String(window.getSelection())) return;
    window.location.hash = `#latent/${line.dataset.latent}`;
  }

  /** The latents before and after one in the table's order, and its place in it. */
  function around(latent) {
    const at = state.order.indexOf(latent);
    if (at < 0) return { before: latent > 0 ? latent - 1 : null, after: latent + 1 < state.index.n ? latent + 1 : null, place: "" };
    const place = `${number(at + 1)} of ${number(state.order.length)}${state.query ? " matches" : ""}`;
    return { before: state.order[at - 1] ?? null, after: state.order[at + 1] ?? null, place };
  }

  /** Show the page on which a latent stands and put the focus on it. */
  function reveal(latent) {
    const at = state.order.indexOf(latent);
    if (at < 0) return;
    state.page = Math.floor(at / PAGE);
    render();
    const link = document.querySelector(`#rows tr[data-latent="${latent}"] a`);
    link.focus({ preventScroll: true });
    link.scrollIntoView({ block: "center" });
  }

  function moveFocus(by) {
    const links = [...document.querySelectorAll("#rows a")];
    const at = links.indexOf(document.activeElement);
    links[at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + by))]?.focus();
  }

  s.table = { start, around, reveal, turn, moveFocus, index: () => state.index };
})(window.saemill);
