"use strict";

/* Small charts in SVG: drawn to their container's width, redrawn when it changes. */
(function (s) {
  const { svg, compact } = s;
  const MARGIN = { top: 10, right: 12, bottom: 26, left: 46 };

  /** Round numbers within [low, high], about ``count`` of them. */
  function ticks(low, high, count) {
    const span = high - low || Math.abs(high) || 1;
    const power = 10 ** Math.floor(Math.log10(span / count));
    const step = power * [1, 2, 2.5, 5, 10].find((m) => span / (power * m) <= count);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
    return found;
  }

  /** 1, 2 and 5 times the powers of ten within [low, high]; only the powers where those are enough. */
  function logTicks(low, high) {
    const powers = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) powers.push(p);
    const all = powers.flatMap((p) => [1, 2, 5].map((m) => Number(`${m}e${p}`))).filter((v) => v >= low * 0.999 && v <= high * 1.001);
    const decades = all.filter((v) => Number.isInteger(Number(Math.log10(v).toFixed(9))));
    return decades.length >= 3 ? decades : all;
  }

  function scale(low, high, from, to, log) {
    const place = log ? Math.log : (v) => v;
    const [a, b] = [place(low), place(high)];
    const of = (v) => from + ((place(v) - a) / (b - a || 1)) * (to - from);
    of.ticks = (count) => (log ? logTicks(low, high) : ticks(low, high, count));
    return of;
  }

  /** Keep ``draw(width, height)`` up to date with the container, whose size the style sheet decides. */
  function responsive(host, draw) {
    new ResizeObserver(() => {
      if (host.clientWidth > 0) host.replaceChildren(draw(host.clientWidth, host.clientHeight));
    }).observe(host);
  }

  /** Axes with ticks and grid lines, and the scales to draw by. */
  function axes(width, height, x, y, options) {
    const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
    const sx = scale(x[0], x[1], MARGIN.left, right);
    const sy = scale(y[0], y[1], bottom, MARGIN.top, options.logY);
    const root = svg("svg", { class: "plot", width, height, role: "img", "aria-label": options.label });
    for (const v of sy.ticks(4)) {
      root.append(svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: sy(v), y2: sy(v) }));
      root.append(svg("text", { class: "tick", x: MARGIN.left - 8, y: sy(v) + 4, "text-anchor": "end", text: (options.formatY || compact)(v) }));
    }
    for (const v of options.ticksX || sx.ticks(Math.max(2, Math.floor(width / 64)))) {
      root.append(svg("text", { class: "tick", x: sx(v), y: bottom + 17, "text-anchor": "middle", text: (options.formatX || compact)(v) }));
    }
    root.append(svg("line", { class: "axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }));
    return { root, sx, sy, bottom };
  }

  function extent(values) {
    const known = values.filter((v) => v !== null);
    return [Math.min(...known), Math.max(...known)];
  }

  /** The range of a line chart, and whether it is better seen on a log scale. */
  function range(values, logAllowed) {
    const [low, high] = extent(values);
    if (logAllowed && low > 0 && high / low > 4) return { bounds: [low * 0.9, high * 1.1], log: true };
    if (low === high) return { bounds: [Math.min(0, low), high * 1.25 || 1], log: false };
    const base = low >= 0 && low < high * 0.6 ? 0 : low - (high - low) * 0.08;
    return { bounds: [base, high + (high - low) * 0.08], log: false };
  }

  /** y over x as a line; the nearest point's values under the pointer. Options: label, log, describe(x, y), formatY. */
  function line(host, data, options) {
    const points = data.x.map((v, i) => [v, data.y[i]]).filter(([, y]) => y !== null);
    const { bounds, log } = range(points.map((p) => p[1]), options.log);
    responsive(host, (width, height) => {
      const ends = [points[0][0], points[points.length - 1][0]];
      const { root, sx, sy, bottom } = axes(width, height, ends, bounds, { ...options, logY: log });
      const path = points.map(([x, y], i) => `${i ? "L" : "M"}${sx(x).toFixed(1)} ${sy(y).toFixed(1)}`).join("");
      root.append(svg("path", { class: "area", d: `${path}L${sx(ends[1])} ${bottom}L${sx(ends[0])} ${bottom}Z` }));
      root.append(svg("path", { class: "line", d: path }));
      root.append(...pointer(width, bottom, points, sx, sy, options.describe));
      return root;
    });
  }

  function pointer(width, bottom, points, sx, sy, describe) {
    const rule = svg("line", { class: "rule", y1: MARGIN.top, y2: bottom, visibility: "hidden" });
    const dot = svg("circle", { class: "dot", r: 3.5, visibility: "hidden" });
    const move = (event) => {
      const left = event.currentTarget.ownerSVGElement.getBoundingClientRect().left;
      const [x, y] = nearest(points, event.clientX - left, sx);
      for (const [name, value] of [["x1", sx(x)], ["x2", sx(x)], ["visibility", "visible"]]) rule.setAttribute(name, value);
      for (const [name, value] of [["cx", sx(x)], ["cy", sy(y)], ["visibility", "visible"]]) dot.setAttribute(name, value);
      s.tip.show(describe(x, y), event.clientX, event.clientY);
    };
    const leave = () => [rule, dot].forEach((mark) => mark.setAttribute("visibility", "hidden"));
    const cover = svg("rect", { class: "cover", width, height: bottom, "data-own-tip": "", onpointermove: move, onpointerleave: leave });
    return [rule, dot, cover];
  }

  function nearest(points, at, sx) {
    return points.reduce((best, point) => (Math.abs(sx(point[0]) - at) < Math.abs(sx(best[0]) - at) ? point : best));
  }

  /** Counts between edges as columns. Options: label, describe(low, high, count), formatX, ticksX. */
  function histogram(host, edges, counts, options) {
    const most = Math.max(1, ...counts);
    responsive(host, (width, height) => {
      const ends = [edges[0], edges[edges.length - 1]];
      const { root, sx, sy, bottom } = axes(width, height, ends, [0, most * 1.06], options);
      counts.forEach((count, i) => {
        const [left, right] = [sx(edges[i]), sx(edges[i + 1])];
        // A bin that holds one of thousands must still be seen, and every bin's whole column tells its count.
        const top = count ? Math.min(sy(count), bottom - 1.5) : bottom;
        const size = { x: left + 0.75, width: Math.max(0.5, right - left - 1.5) };
        const column = svg("rect", { class: "column", y: top, height: bottom - top, rx: 1.5, ...size });
        const cover = svg("rect", { class: "cover", x: left, y: MARGIN.top, width: right - left, height: bottom - MARGIN.top });
        root.append(svg("g", { class: "bin", "data-tip": options.describe(edges[i], edges[i + 1], count) }, cover, column));
      });
      return root;
    });
  }

  s.charts = { line, histogram };
})(window.saemill);
