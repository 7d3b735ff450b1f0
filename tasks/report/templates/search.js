"use strict";

/* Which latents match a query, and where. The text is loaded when the first search begins. */
(function (s) {
  const BEFORE = 30, AFTER = 60;
  const KINDS = ["number", "fires", "promoted", "context"];
  let text = null;

  async function prepare() {
    if (text) return text;
    const data = await s.load("search");
    text = { ...data, lowerPromoted: data.promoted.map((t) => t.toLowerCase()), lowerContexts: data.contexts.map((t) => t.toLowerCase()) };
    return text;
  }

  /** The query as it is compared: lower case, one space between words; '#12' and '12' also mean a number. */
  function parse(query) {
    const words = query.trim().replace(/\s+/g, " ").toLowerCase();
    const digits = /^#?(\d+)$/.exec(words);
    return { words, latent: digits ? Number(digits[1]) : null, numberOnly: words.startsWith("#") && digits !== null };
  }

  /** Latents that match, as a Map to the best of KINDS that does. Needs prepare(). */
  function find(query, { n, fires, strings }) {
    const { words, latent, numberOnly } = parse(query);
    const found = new Map();
    if (latent !== null && latent < n) found.set(latent, "number");
    if (numberOnly) return found;
    const firing = new Set(strings.flatMap((string, id) => (string.toLowerCase().includes(words) ? [id] : [])));
    for (let i = 0; i < n; i++) {
      if (found.has(i)) continue;
      if (fires[i].some((id) => firing.has(id))) found.set(i, "fires");
      else if (text.lowerPromoted[i].includes(words)) found.set(i, "promoted");
      else if (text.lowerContexts[i].includes(words)) found.set(i, "context");
    }
    return found;
  }

  /** The text around the first place in a latent's contexts where the query occurs: [before, match, after]. */
  function excerpt(query, latent) {
    const { words } = parse(query);
    const at = text.lowerContexts[latent].indexOf(words);
    if (at < 0) return null;
    const whole = text.contexts[latent];
    const line = whole.lastIndexOf("\n", at) + 1;
    const cut = at - line > BEFORE;
    // From a whole word on, as the strongest context is shown.
    const before = cut ? `…${whole.slice(at - BEFORE, at).replace(/^\S*\s/, "")}` : whole.slice(line, at);
    const newline = whole.indexOf("\n", at + words.length);
    const end = Math.min(newline < 0 ? whole.length : newline, at + words.length + AFTER);
    return [before, whole.slice(at, at + words.length), whole.slice(at + words.length, end)];
  }

  /** Promoted tokens of a latent in which the query occurs. */
  function promoted(query, latent) {
    const { words } = parse(query);
    return text.promoted[latent].split("\n").filter((token) => token.toLowerCase().includes(words));
  }

  s.search = { KINDS, prepare, find, excerpt, promoted, isComplete: () => text === null || text.complete };
})(window.saemill);
