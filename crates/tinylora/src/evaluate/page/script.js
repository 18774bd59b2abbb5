"use strict";
(() => {
  const problems = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  const PAGE = 50;

  const make = (tag, cls, text) => {
    const element = document.createElement(tag);
    if (cls) element.className = cls;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const kind = (t) =>
    t.right ? "right" : t.verdict === "different" ? "wrong" : t.verdict === "prediction_unparsed" ? "none" : "odd";
  const NAMES = { right: "right", wrong: "wrong", none: "no answer", odd: "not decided" };
  const disagree = (t) => new Set(Object.values(t.scorers)).size > 1;

  // What can be chosen: all tries of a problem are looked at, one that fits is enough.
  const KINDS = {
    failed: ["not right", (t) => !t.right],
    wrong: ["wrong", (t) => kind(t) === "wrong"],
    none: ["no answer", (t) => kind(t) === "none"],
    odd: ["not decided", (t) => kind(t) === "odd"],
    cut: ["cut off", (t) => t.cut],
    disagree: ["scorers disagree", disagree],
    right: ["right", (t) => t.right],
    all: ["all", () => true],
  };
  const chosen = { kind: "failed", groups: {}, text: "" };
  if (!problems.some((p) => p.tries.some(KINDS.failed[1]))) chosen.kind = "all";

  const filters = document.getElementById("filters");
  const select = (label, options, value, change) => {
    const box = make("label", "", label + " ");
    const field = make("select");
    for (const [key, name] of options) {
      const option = make("option", "", name);
      option.value = key;
      field.append(option);
    }
    field.value = value;
    field.addEventListener("change", () => { change(field.value); draw(); });
    box.append(field);
    filters.append(box);
  };
  const number = (test) => problems.filter((p) => p.tries.some(test)).length;
  select("Show", Object.entries(KINDS).map(([key, [name, test]]) => [key, `${name} (${number(test)})`]), chosen.kind,
    (value) => { chosen.kind = value; });
  const kinds = [...new Set(problems.flatMap((p) => Object.keys(p.groups)))].sort();
  for (const name of kinds) {
    const values = [...new Set(problems.map((p) => p.groups[name]).filter((v) => v !== undefined))]
      .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    select(name, [["", "any"], ...values.map((v) => [v, v])], "", (value) => { chosen.groups[name] = value; });
  }
  const search = make("input");
  search.type = "search";
  search.placeholder = "search in all text";
  search.setAttribute("aria-label", "search in questions, answers and completions");
  search.addEventListener("input", () => { chosen.text = search.value.trim().toLowerCase(); draw(); });
  filters.append(search);

  const fits = (p) => {
    if (!p.tries.some(KINDS[chosen.kind][1])) return false;
    for (const [name, value] of Object.entries(chosen.groups)) if (value && p.groups[name] !== value) return false;
    if (!chosen.text) return true;
    const texts = [p.id, p.question, p.gold, ...p.tries.flatMap((t) => [t.answer, t.text || ""])];
    return texts.some((text) => text.toLowerCase().includes(chosen.text));
  };

  const short = (text) => text.replace(/\s+/g, " ").trim();
  const preWithMark = (text, answer) => {
    const pre = make("pre");
    const at = answer ? text.lastIndexOf(answer) : -1;
    if (at < 0) { pre.textContent = text; return pre; }
    pre.append(text.slice(0, at), make("mark", "", answer), text.slice(at + answer.length));
    return pre;
  };
  const fact = (box, name, value, code) => {
    box.append(make("span", "", name), make(code ? "code" : "div", "", value));
  };

  const inside = (p) => {
    const box = make("div", "inside");
    box.append(make("h3", "", "Question"), make("pre", "text", p.question));
    p.tries.forEach((t, i) => {
      const one = make("div", "try");
      if (p.tries.length > 1) {
        const title = make("h3", "", `Sample ${i + 1} `);
        title.append(make("span", "tag " + kind(t), NAMES[kind(t)]));
        one.append(title);
      }
      const facts = make("div", "facts");
      fact(facts, "right answer", p.gold || "(the data has none)", true);
      fact(facts, "answer found", t.answer || "(none)", true);
      if (t.read) fact(facts, "read as", t.read);
      if (t.why) fact(facts, "because", t.why);
      const others = Object.entries(t.scorers).map(([name, yes]) => `${name} ${yes ? "yes" : "no"}`);
      fact(facts, "accepted by", others.join(", "));
      fact(facts, "length", `${t.tokens} tokens${t.cut ? ", cut off at the largest length" : ""}`);
      const groups = Object.entries(p.groups).map(([name, value]) => `${name} ${value}`);
      if (groups.length) fact(facts, "belongs to", groups.join(", "));
      one.append(facts, make("h3", "", "What the model wrote"));
      if (t.text === undefined) one.append(make("p", "note", "Left out here to keep the page small; it is in results.jsonl."));
      else {
        if (t.missing) one.append(make("p", "note", `The first ${t.missing} characters are left out; results.jsonl has them.`));
        one.append(t.text ? preWithMark(t.text, t.answer) : make("p", "note", "Nothing."));
      }
      box.append(one);
    });
    return box;
  };

  const row = (p) => {
    const details = make("details", "problem");
    const summary = make("summary");
    summary.append(make("span", "id", p.id));
    const right = p.tries.filter((t) => t.right).length;
    const tags = make("span");
    if (p.tries.length > 1) {
      tags.append(make("span", "tag " + (right ? "right" : "wrong"), `${right} of ${p.tries.length} right`));
    } else {
      const t = p.tries[0];
      tags.append(make("span", "tag " + kind(t), NAMES[kind(t)]));
      if (t.cut) tags.append(" ", make("span", "tag cut", "cut off"));
    }
    summary.append(tags, make("span", "line", short(p.question)));
    const found = p.tries.length > 1 ? "" : `${short(p.tries[0].answer) || "–"} ${right ? "=" : "≠"} `;
    const answers = make("span", "answers", found + (short(p.gold) || "–"));
    answers.title = "answer found, and the right answer";
    summary.append(answers);
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(inside(p));
    });
    return details;
  };

  let matching = [];
  let shown = 0;
  const extend = () => {
    const next = matching.slice(shown, shown + PAGE);
    list.append(...next.map(row));
    shown += next.length;
    more.hidden = shown >= matching.length;
    count.textContent = matching.length === 0
      ? "No problem fits."
      : `${matching.length} of ${problems.length} problems${shown < matching.length ? `, the first ${shown} shown` : ""}`;
  };
  const draw = () => {
    matching = problems.filter(fits);
    shown = 0;
    list.replaceChildren();
    extend();
  };
  more.addEventListener("click", extend);
  draw();
})();
