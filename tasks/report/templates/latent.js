"use strict";

/* The panel of one latent. */
(function (s) {
  const { h, number, figure, percent, styled } = s;
  const CHUNK = 64;
  const view = document.getElementById("view-latent");
  let wanted = null;

  async function show(latent) {
    wanted = latent;
    const index = s.table.index();
    if (!(latent < index.n)) return view.replaceChildren(missing(`There is no latent ${latent}: they run from 0 to ${index.n - 1}.`));
    if (index.panels && !index.panels.includes(latent)) return fill(latent, index, missing("No contexts of this latent are in the report: report.max_latents kept those that fire most."));
    const chunk = await s.load(`latents-${String(Math.floor(latent / CHUNK)).padStart(5, "0")}`);
    if (wanted !== latent) return undefined; // another was asked for meanwhile
    return fill(latent, index, body(latent, index, chunk));
  }

  function missing(text) {
    return h("p", { class: "notice", text });
  }

  function fill(latent, index, content) {
    view.replaceChildren(heading(latent, index), facts(latent, index), content);
  }

  function heading(latent, index) {
    const { before, after, place } = s.table.around(latent);
    const fires = index.fires[latent].map((id) => s.tokens.chip(index.strings[id]));
    return h(
      "div",
      { class: "latent-head" },
      h("a", { class: "button", href: "#latents", "data-tip": "Esc", text: "‹ All latents" }),
      h("h1", { text: `Latent ${latent}` }),
      fires.length ? h("span", { class: "fires" }, h("span", { class: "muted", text: "fires on" }), fires) : null,
      h("span", { class: "spacer" }),
      h("span", { class: "muted num", text: place }),
      step(before, "previous", "← Previous"),
      step(after, "next", "Next →"),
    );
  }

  function step(latent, id, text) {
    if (latent === null) return h("span", { class: "button off", id, "aria-disabled": "true", text });
    return h("a", { class: "button", id, href: `#latent/${latent}`, text });
  }

  function facts(latent, index) {
    const fact = (column) => {
      const text = s.valueOf(column, index.columns[column.name][latent], 1);
      return h("div", {}, h("dt", { "data-tip": column.tip, text: column.title }), h("dd", { text }));
    };
    return h("dl", { class: "card facts" }, index.shown.map(fact));
  }

  function body(latent, index, chunk) {
    const data = chunk.latents[latent];
    const most = index.columns.max_activation[latent] || 1;
    const side = [
      data.descent ? card("Line of descent", lineage(data.descent)) : null,
      data.shares ? card("Decoder norm by hook", shares(data.shares, index.hooks)) : null,
      card("Activations", activations(data.histogram, most)),
      data.promoted.tokens.length ? card("Promoted tokens", logits(data.promoted, chunk.strings)) : null,
      data.suppressed.tokens.length ? card("Suppressed tokens", logits(data.suppressed, chunk.strings)) : null,
      data.neighbours.latents.length ? card("Nearest by decoder", neighbours(data.neighbours, index)) : null,
    ];
    return h("div", { class: "latent-body" }, h("div", { class: "stack" }, groups(data.contexts, chunk.strings, most, index.unit)), h("aside", { class: "stack" }, side));
  }

  function card(title, ...content) {
    return h("section", { class: "card" }, h("h2", { text: title }), content);
  }

  function groups(contexts, strings, most, unit) {
    const kinds = [...new Set(contexts.kind)];
    if (!kinds.length) return card("Contexts", h("p", { class: "muted", text: "This latent never fired on the scored rows, so there is nothing to show." }));
    // A latent that fires seldom may have none of a quantile in the middle; the lowest has the largest number.
    const quantiles = Math.max(0, ...kinds.filter((kind) => kind !== "top").map((kind) => Number(kind.slice(1))));
    const noun = unit === "row" ? "rows" : "contexts";
    return kinds.map((kind) => {
      const rows = contexts.kind.flatMap((other, i) => (other === kind ? [i] : []));
      return card(groupTitle(kind, quantiles, noun), h("ol", { class: "contexts" }, rows.map((i) => context(contexts, strings, i, most, unit))));
    });
  }

  function groupTitle(kind, quantiles, noun) {
    if (kind === "top") return `Strongest ${noun}`;
    const at = Number(kind.slice(1));
    const where = at === 1 ? ", highest" : at === quantiles ? ", lowest" : "";
    return `Weaker ${noun}: quantile ${at} of ${quantiles}${where}`;
  }

  function context(contexts, strings, i, most, unit) {
    const activation = contexts.activation[i];
    const bar = styled(h("span", { class: "meter", "aria-hidden": "true" }), "--part", (activation / most).toFixed(3));
    return h(
      "li",
      {},
      h("div", { class: "strength num" }, figure(activation, 4), bar),
      h("div", { class: "quote" }, contextText(contexts, strings, i, most), unit === "row" ? rowCaption(contexts, strings, i) : caption(contexts, strings, i)),
    );
  }

  function contextText(contexts, strings, i, most) {
    const tokens = contexts.tokens[i].map((id) => strings[id]);
    const peak = contexts.peak[i];
    return s.tokens.context(tokens, contexts.values[i], peak, contexts.position[i] - peak, most);
  }

  /** Which row it is, unless it is called by its number already. */
  function rowCaption(contexts, strings, i) {
    const name = `row ${contexts.sequence[i]}`;
    return strings[contexts.tokens[i][0]] === name ? null : h("p", { class: "caption", text: name });
  }

  function caption(contexts, strings, i) {
    const where = `sequence ${number(contexts.sequence[i])}, position ${contexts.position[i]}`;
    const title = contexts.title[i] === null ? "" : strings[contexts.title[i]];
    return h("p", { class: "caption", dir: "auto" }, title ? h("strong", { text: title }) : null, h("span", { text: where }));
  }

  function activations(counts, most) {
    const host = h("div", { class: "chart low" });
    if (!counts || !counts.some((count) => count > 0)) return h("p", { class: "muted", text: "No activations." });
    const edges = Array.from({ length: counts.length + 1 }, (_, i) => (i * most) / counts.length);
    s.charts.histogram(host, edges, counts, {
      label: "Histogram of activations",
      describe: (low, high, count) => `${number(count)} rows\n${number(low, 3)} to ${number(high, 3)}`,
    });
    return host;
  }

  /** Which latents it was in the versions before, the last one first. */
  function lineage(descent) {
    const steps = [...descent.steps].reverse().map((step) => {
      const figures = [step.C_d === null ? null : `C_d ${figure(step.C_d, 2)}`, step.R === null ? null : `R ${figure(step.R, 2)}`];
      const told = [step.class, ...figures.filter((text) => text !== null)].join(", ");
      return h("li", {}, h("span", { text: `Version ${step.version}` }), h("span", { class: "line", text: `latent ${step.index}` }), h("span", { class: "num muted", text: told }));
    });
    const parents = descent.parents.length ? h("p", { class: "muted", text: `from ${descent.parents.join(", ")}` }) : null;
    return [h("p", {}, h("code", { text: descent.id })), h("ol", { class: "neighbours descent" }, steps), parents];
  }

  /** Where a crosscoder's latent writes: the share of its decoder's norm at each hook. */
  function shares(values, hooks) {
    return h(
      "ol",
      { class: "logits shares" },
      values.map((value, i) => {
        const bar = styled(h("span", { class: "meter", "aria-hidden": "true" }), "--part", (value ?? 0).toFixed(3));
        return h("li", {}, h("code", { text: hooks[i] }), bar, h("span", { class: "num", text: percent(value, 2) }));
      }),
    );
  }

  function logits(column, strings) {
    const most = Math.max(...column.logits.map((v) => Math.abs(v ?? 0))) || 1;
    return h(
      "ol",
      { class: "logits" },
      column.tokens.map((id, i) => {
        const value = column.logits[i];
        const bar = h("span", { class: value < 0 ? "meter negative" : "meter", "aria-hidden": "true" });
        return h("li", {}, s.tokens.chip(strings[id]), styled(bar, "--part", (Math.abs(value ?? 0) / most).toFixed(3)), h("span", { class: "num", text: signed(value) }));
      }),
    );
  }

  function signed(value) {
    return value > 0 ? `+${figure(value)}` : figure(value).replace("-", "−");
  }

  function neighbours(column, index) {
    return h(
      "ol",
      { class: "neighbours" },
      column.latents.map((latent, i) => {
        const fires = (index.fires[latent] || []).map((id) => s.tokens.chip(index.strings[id]));
        const about = fires.length ? fires : h("span", { class: "muted", text: "never fired" });
        return h("li", {}, h("a", { href: `#latent/${latent}`, text: latent }), h("span", { class: "line" }, about), h("span", { class: "num", text: figure(column.cosines[i], 2) }));
      }),
    );
  }

  s.latent = { show };
})(window.saemill);
