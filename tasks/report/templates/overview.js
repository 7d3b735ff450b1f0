"use strict";

/* The charts of the overview and of the setup page. */
(function (s) {
  const { number, percent, compact } = s;
  const PERCENT = new Set(["dead_fraction"]);
  const LOG = new Set(["fvu", "loss"]);

  function curve(host, data) {
    const format = PERCENT.has(data.name) ? percent : number;
    document.querySelector(`[data-last="${data.name}"]`).textContent = `${format(data.y.findLast((y) => y !== null), 3)} at the end`;
    s.charts.line(host, data, {
      label: `${data.title} over tokens`,
      log: LOG.has(data.name),
      formatY: PERCENT.has(data.name) ? (v) => `${number(100 * v)} %` : compact,
      describe: (x, y) => `${data.title} ${format(y)}\nafter ${number(x)}`,
    });
  }

  function powerOfTen(exponent) {
    const digits = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
    return exponent === 0 ? "1" : `10${[...String(exponent)].map((c) => digits[c]).join("")}`;
  }

  function wholeNumbers(low, high) {
    const count = Math.floor(high) - Math.ceil(low) + 1;
    return Array.from({ length: Math.max(0, count) }, (_, i) => Math.ceil(low) + i);
  }

  function density(host, data) {
    s.charts.histogram(host, data.edges, data.counts, {
      label: "Latents by density",
      ticksX: wholeNumbers(data.edges[0], data.edges[data.edges.length - 1]),
      formatX: powerOfTen,
      describe: (low, high, count) => `${number(count)} latents\nfire on ${percent(10 ** low, 2)} to ${percent(10 ** high, 2)}`,
    });
  }

  function norms(host, data) {
    s.charts.line(host, data, {
      label: "Mean norm by position",
      log: true,
      describe: (x, y) => `position ${x}\nmean norm ${number(y)}`,
    });
  }

  s.drawOverview = function (data) {
    for (const one of data.curves) curve(document.querySelector(`[data-curve="${one.name}"]`), one);
    const hosts = ["density-chart", "norm-chart"].map((id) => document.getElementById(id));
    if (hosts[0]) density(hosts[0], data.density);
    if (hosts[1]) norms(hosts[1], data.norms);
  };
})(window.saemill);
