"use strict";
// Shows the rows that stand as JSON in the page: sorts, filters, turns pages. Everything they say is put in as text.
(() => {
  const data = JSON.parse(document.getElementById("rows").textContent);
  const PER_PAGE = 100, PRINTED = 2000;
  const [SOURCE, STATUS, FORMAT, MODEL, ARCHITECTURE, SIZE, TIME, VERDICT, RATIO, MORE] = Array(10).keys();
  const KNOWN = new Set(data.classes);
  const $ = (id) => document.getElementById(id);
  const collator = new Intl.Collator("en", { numeric: true });
  const ORDER = { [SIZE]: 1, [TIME]: 1 };
  let sorted = { column: SOURCE, down: false };
  let found = data.rows, at = 0;

  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const kind = (word) => (KNOWN.has(word) ? word : "none");
  const size = (n) => {
    if (n === null || n === undefined) return "";
    if (n < 1000) return n === 1 ? "1 byte" : n + " bytes";
    let amount = n;
    for (const unit of ["kB", "MB", "GB", "TB", "PB"]) {
      amount /= 1000;
      if (amount < 999.5) return Number(amount.toPrecision(3)) + " " + unit;
    }
    return Number(amount.toPrecision(3)) + " EB";
  };
  const time = (s) => {
    if (s === null || s === undefined) return "";
    if (s < 0.0005) return "0 s";
    if (s < 1) return Math.round(s * 1000) + " ms";
    if (s < 100) return s.toFixed(1) + " s";
    return Math.floor(s / 60) + " min " + Math.round(s % 60) + " s";
  };
  const ratio = (r) => (typeof r === "number" ? Number(r.toPrecision(3)) : r);
  const amount = (r) => (typeof r === "number" ? r : r === null ? 0 : Infinity); // "inf" and "nan" are texts

  // What a column is filtered by: text that it holds, a word that it is, or a least number.
  const filters = [
    ["holds", "f-source", (row) => row[SOURCE] + "\n" + (row[MORE].copy || "")],
    ["is", "f-status", (row) => row[STATUS]],
    ["is", "f-format", (row) => row[FORMAT]],
    ["holds", "f-model", (row) => row[MODEL] + "\n" + (row[MORE].out || []).map((o) => o[1]).join("\n")],
    ["holds", "f-architecture", (row) => row[ARCHITECTURE]],
    ["least", "f-size", (row) => row[SIZE]],
    ["least", "f-time", (row) => row[TIME]],
    ["has", "f-verdict", (row) => row[VERDICT].split(", ")],
    ["is", "f-reason", (row) => (row[MORE].error ? row[MORE].error[0] : "")],
  ];

  function choose() {
    let rows = data.rows;
    for (const [how, id, of] of filters) {
      const field = $(id), asked = field ? field.value : "";
      if (asked === "") continue;
      if (how === "holds") {
        const low = asked.toLowerCase();
        rows = rows.filter((row) => of(row).toLowerCase().includes(low));
      } else if (how === "has") rows = rows.filter((row) => of(row).includes(asked === "\u2013" ? "" : asked));
      else if (how === "is") rows = rows.filter((row) => of(row) === (asked === "\u2013" ? "" : asked));
      else rows = rows.filter((row) => of(row) !== null && of(row) >= Number(asked));
    }
    const { column, down } = sorted, sign = down ? -1 : 1;
    const key = (row) => row[column];
    const order = ORDER[column]
      ? (a, b) => key(a) - key(b)
      : (a, b) => collator.compare(key(a), key(b));
    const absent = (v) => v === null || v === "";
    // Rows without a value come last, whichever way the others run; equal ones in the order of their names.
    found = rows.slice().sort((a, b) => {
      const x = absent(key(a)), y = absent(key(b)), same = collator.compare(a[SOURCE], b[SOURCE]);
      if (x || y) return x - y || same;
      return sign * order(a, b) || (column === VERDICT && sign * (amount(a[RATIO]) - amount(b[RATIO]))) || same;
    });
    at = 0;
    show();
  }

  function pairs(list, name, value, classed) {
    list.append(make("dt", name), make("dd", value, classed));
  }

  function details(row) {
    const more = row[MORE], list = make("dl");
    if (more.error) {
      pairs(list, "error", more.error[1] + (more.error[4] ? " (" + more.error[4] + ")" : ""), "failed");
      if (more.error[2]) pairs(list, "hint", more.error[2]);
      pairs(list, "kind", more.error[0] + ", exit code " + more.error[3]);
    }
    if (row[FORMAT]) pairs(list, "container", data.formats[row[FORMAT]] || row[FORMAT]);
    if (row[MODEL]) pairs(list, "model found", row[MODEL]);
    if (row[ARCHITECTURE]) pairs(list, "architecture", row[ARCHITECTURE]);
    if (row[TIME] !== null) pairs(list, "time", time(row[TIME]));
    if (more.copy) pairs(list, "same content as", more.copy);
    if (more.digest) pairs(list, "source", more.digest, "mono");
    for (const [target, model, path, bytes, tensors, verdict, r, digest] of more.out || []) {
      const made = make("dd");
      made.append(make("b", path), " " + [model && "model " + model, size(bytes), tensors !== null && tensors.toLocaleString("en") + " tensors"].filter(Boolean).join(", "));
      if (verdict) made.append(", ", make("span", verdict + (r !== null ? " " + ratio(r) : ""), kind(verdict)));
      if (digest) made.append(make("br"), make("span", digest, "mono soft"));
      list.append(make("dt", target), made);
    }
    if (more.outs) pairs(list, "and", more.outs + " more outputs");
    for (const [path, what] of more.left || []) pairs(list, "not written", path + ": " + what);
    if (more.lefts) pairs(list, "and", more.lefts + " more that are not written");
    for (const note of more.notes || []) pairs(list, "note", note);
    if (more.tries) pairs(list, "attempts", String(more.tries));
    if (more.cut) pairs(list, "details", "left out of this page for its size: see report.json");
    return list;
  }

  function line(row, body) {
    const made = make("tr"), head = make("th"), name = make("button", row[SOURCE], "open");
    head.scope = "row";
    name.type = "button";
    name.setAttribute("aria-expanded", "false");
    head.append(name);
    made.append(head, make("td", row[STATUS], kind(row[STATUS])), make("td", row[FORMAT], "c-format"), make("td", row[MODEL], "c-model"));
    made.append(make("td", row[ARCHITECTURE], "c-architecture"), make("td", size(row[SIZE]), "n"), make("td", time(row[TIME]), "n c-time"));
    const verdict = row[VERDICT] + (row[RATIO] === null ? "" : " " + ratio(row[RATIO]));
    made.append(make("td", verdict, kind(row[VERDICT].split(", ")[0])));
    name.addEventListener("click", () => {
      const open = name.getAttribute("aria-expanded") === "true";
      name.setAttribute("aria-expanded", String(!open));
      if (open) made.nextElementSibling.remove();
      else {
        const under = make("tr", undefined, "more"), cell = make("td");
        cell.colSpan = 8;
        cell.append(details(row));
        under.append(cell);
        made.after(under);
      }
    });
    body.append(made);
  }

  function show(most = PER_PAGE) {
    const body = $("body"), pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    at = Math.min(Math.max(at, 0), pages - 1);
    const first = most === PER_PAGE ? at * PER_PAGE : 0, shown = found.slice(first, first + most);
    body.replaceChildren();
    for (const row of shown) line(row, body);
    const all = data.rows.length.toLocaleString("en"), some = found.length.toLocaleString("en");
    const range = shown.length ? `${(first + 1).toLocaleString("en")} to ${(first + shown.length).toLocaleString("en")} of ` : "";
    $("count").textContent = range + (found.length === data.rows.length ? `${all} checkpoints` : `${some} found among ${all} checkpoints`);
    $("first").disabled = $("previous").disabled = at === 0;
    $("last").disabled = $("next").disabled = at === pages - 1;
    $("pages").hidden = pages === 1;
    $("page").textContent = `page ${at + 1} of ${pages.toLocaleString("en")}`;
    document.querySelectorAll("th[data-column]").forEach((head) => {
      const mine = Number(head.dataset.column) === sorted.column;
      if (mine) head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  document.querySelectorAll("th[data-column] button").forEach((button) => {
    const column = Number(button.parentElement.dataset.column);
    button.addEventListener("click", () => {
      const numeric = column in ORDER;
      sorted = { column, down: sorted.column === column ? !sorted.down : numeric };
      choose();
    });
  });
  for (const event of ["input", "change"]) $("filters").addEventListener(event, choose);
  $("filters").addEventListener("reset", () => setTimeout(choose));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  const turn = (id, to) => $(id).addEventListener("click", () => { at = to(); show(); });
  turn("first", () => 0);
  turn("previous", () => at - 1);
  turn("next", () => at + 1);
  turn("last", () => Infinity);
  addEventListener("beforeprint", () => show(PRINTED));
  addEventListener("afterprint", () => show());
  document.documentElement.classList.add("alive");
  choose();
})();
