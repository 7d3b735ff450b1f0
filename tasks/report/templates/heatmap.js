"use strict";

/* Labels x latents. */
(function (s) {
  const { h, number, figure, styled } = s;
  const ROOM_FOR_VALUES = 14;

  function draw(data) {
    const host = document.getElementById("heatmap");
    const shade = document.querySelector("input[name=shade]:checked").value;
    const most = maxima(data, shade);
    const table = h("table", { class: data.latents.length <= ROOM_FOR_VALUES ? "heat wide" : "heat" }, head(data), h("tbody", {}, data.labels.map((label, row) => line(data, label, row, most))));
    host.replaceChildren(styled(table, "--columns", data.latents.length));
    document.getElementById("heatmap-note").textContent =
      data.latents.length < data.n_latents ? `The strongest ${data.latents.length} of ${number(data.n_latents)} latents that fire` : `All ${data.latents.length} latents that fire`;
  }

  function maxima(data, shade) {
    const columns = data.latents.map((_, i) => Math.max(...data.values.map((row) => row[i] ?? 0)));
    return shade === "latent" ? columns : columns.map(() => Math.max(...columns));
  }

  function head(data) {
    const cells = data.latents.map((latent) => h("th", { scope: "col" }, h("a", { href: `#latent/${latent}`, text: latent, "data-tip": `Latent ${latent}` })));
    return h("thead", {}, h("tr", {}, h("td"), cells));
  }

  function line(data, label, row, most) {
    const cells = data.values[row].map((value, i) => cell(label, data.latents[i], value ?? 0, most[i]));
    return h("tr", {}, h("th", { scope: "row", dir: "auto", title: label, text: label }), cells);
  }

  function cell(label, latent, value, most) {
    const box = h("a", { href: `#latent/${latent}`, tabindex: -1, "data-tip": `${label}\nlatent ${latent}: ${number(value)}`, text: value > 0 ? figure(value, 2) : "" });
    return h("td", {}, styled(box, "--heat", most > 0 ? Math.max(0, value / most).toFixed(3) : "0"));
  }

  async function show() {
    const data = await s.load("heatmap");
    draw(data);
    for (const choice of document.querySelectorAll("input[name=shade]")) choice.onchange = () => draw(data);
  }

  s.heatmap = { show };
})(window.saemill);
