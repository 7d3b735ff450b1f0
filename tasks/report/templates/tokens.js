"use strict";

/* Tokens as readable text: what cannot be seen gets a quiet sign, what could scramble the line is spelled out. */
(function (s) {
  const { h, number, styled } = s;
  const SIGNS = { "\n": "↵", "\r": "␍", "\t": "→" };
  // Control characters, line separators, bidirectional marks and overrides. Joiners stay: scripts and emoji need them.
  const HIDDEN = /([\u0000-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff])/;

  function sign(character) {
    return SIGNS[character] || `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  }

  /** Nodes for a token within running text. */
  function running(text) {
    return text.split(HIDDEN).map((part, i) => (i % 2 ? h("span", { class: "sign", text: sign(part) }) : part));
  }

  /** The spaces before a token, and the rest; nothing but spaces counts as the rest. */
  function split(text) {
    const [, spaces, rest] = /^( *)(.*)$/su.exec(text);
    return rest ? [spaces, rest] : ["", spaces];
  }

  /** A token that must be seen, even where it is nothing but spaces. */
  function visible(text) {
    return /^ +$/.test(text) ? h("span", { class: "sign", text: "␣".repeat(text.length) }) : running(text);
  }

  /** A token on its own, with the spaces at its ends made visible. */
  function chip(text) {
    const [, before, middle, after] = /^( *)(.*?)( *)$/su.exec(text);
    const dots = (spaces) => (spaces ? h("span", { class: "sign", text: "·".repeat(spaces.length) }) : null);
    return h("span", { class: "chip", dir: "auto" }, dots(before), running(middle), dots(after));
  }

  /** A context: every token with its value on hover, shaded by its share of ``most``, the peak marked. */
  function context(tokens, values, peak, firstPosition, most) {
    const spans = tokens.map((text, i) => {
      const value = values[i] ?? 0;
      const tip = `“${chip(text).textContent}”  ${number(value)}\nposition ${firstPosition + i}`;
      const names = ["tok", value > 0 ? "hot" : "", i === peak ? "peak" : ""].filter(Boolean).join(" ");
      // The space before a word stays outside of its shade, or words seem to run together.
      const [space, word] = split(text);
      const span = h("span", { class: names, "data-tip": tip }, value > 0 ? visible(word) : running(word));
      return [i > 0 ? space : "", value > 0 ? styled(span, "--heat", Math.min(1, value / most).toFixed(3)) : span];
    });
    return h("p", { class: "text", dir: "auto" }, spans);
  }

  s.tokens = { running, visible, split, chip, context };
})(window.saemill);
