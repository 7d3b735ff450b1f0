"use strict";

/* The one global. Data files call saemill.receive(name, value); text only ever becomes text nodes. */
window.saemill = (function () {
  const SVG = "http://www.w3.org/2000/svg";
  const loading = new Map();

  /** Load data/NAME.js once; a script rather than fetch(), which pages from disk may not use. */
  function load(name) {
    if (!loading.has(name)) {
      const entry = {};
      entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
      loading.set(name, entry);
      const script = document.createElement("script");
      script.src = `data/${name}.js`;
      script.onerror = () => entry.reject(new Error(`data/${name}.js could not be loaded. Is the folder complete?`));
      document.head.append(script);
    }
    return loading.get(name).promise;
  }

  function receive(name, value) {
    loading.get(name).resolve(value);
  }

  /** An element. Properties: class, text, data-*, aria-* and other attributes, on<event> handlers. */
  function h(tag, properties, ...children) {
    return filled(document.createElement(tag), properties, children);
  }

  /** An SVG element, likewise. */
  function svg(tag, properties, ...children) {
    return filled(document.createElementNS(SVG, tag), properties, children);
  }

  function filled(element, properties, children) {
    for (const [name, value] of Object.entries(properties || {})) {
      if (name === "text") element.textContent = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return element;
  }

  /** A custom property for the style sheet; style attributes are forbidden by the page's policy, this is not. */
  function styled(element, name, value) {
    element.style.setProperty(name, value);
    return element;
  }

  function number(value, digits = 4) {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en-US");
    if (Math.abs(value) < 1e-4) return value.toExponential(digits - 2);
    return value.toLocaleString("en-US", { maximumSignificantDigits: digits });
  }

  function percent(share, digits = 3) {
    if (share === null || share === undefined) return "–";
    return `${figure(100 * share, digits)} %`;
  }

  /** A number with exactly ``digits`` significant digits, so that columns of them line up. */
  function figure(value, digits = 3) {
    if (value === null || value === undefined) return "–";
    if (value !== 0 && Math.abs(value) < 1e-4) return value.toExponential(digits - 1);
    if (Math.abs(value) >= 10 ** digits) return Math.round(value).toLocaleString("en-US");
    return value === 0 ? "0" : value.toLocaleString("en-US", { minimumSignificantDigits: digits, maximumSignificantDigits: digits });
  }

  /** A value of a column of latents as that column says; ``more`` digits where there is room. */
  function valueOf({ style, digits }, value, more = 0) {
    if (style === "count") return number(value);
    return style === "number" ? figure(value, digits + more) : percent(value, digits + more);
  }

  function compact(value) {
    return value.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 3 }).replace("K", "k");
  }

  function fail(error) {
    const box = document.getElementById("failure");
    box.textContent = error.message;
    box.hidden = false;
  }

  return { load, receive, h, svg, styled, number, figure, percent, valueOf, compact, fail };
})();

/* One tooltip for everything that has data-tip. */
(function (s) {
  const GAP = 14;
  const box = document.getElementById("tip");

  function show(text, x, y) {
    box.textContent = text;
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const left = Math.min(x + GAP, window.innerWidth - width - GAP);
    const top = y + GAP + height > window.innerHeight ? y - height - GAP : y + GAP;
    box.style.left = `${Math.max(4, left)}px`;
    box.style.top = `${Math.max(4, top)}px`;
  }

  function hide() {
    box.hidden = true;
  }

  function owner(event) {
    return event.target instanceof Element ? event.target.closest("[data-tip]") : null;
  }

  document.addEventListener("pointermove", (event) => {
    const element = owner(event);
    if (element) show(element.dataset.tip, event.clientX, event.clientY);
    else if (!event.target.closest?.("[data-own-tip]")) hide();
  });
  document.addEventListener("focusin", (event) => {
    const element = owner(event);
    if (!element || !element.matches(":focus-visible")) return hide();
    const { left, bottom } = element.getBoundingClientRect();
    show(element.dataset.tip, left, bottom - GAP + 4);
  });
  document.addEventListener("pointerleave", hide);
  window.addEventListener("scroll", hide, { passive: true });
  window.addEventListener("hashchange", hide);

  s.tip = { show, hide };
})(window.saemill);
