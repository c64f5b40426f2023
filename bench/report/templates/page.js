"use strict";
// Filters, sorts, points at. Every number and word that is shown was made by Python and is in the page already.
(() => {
  const $ = (query, from = document) => from.querySelector(query);
  const $$ = (query, from = document) => [...from.querySelectorAll(query)];
  const make = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const data = JSON.parse($("#data").textContent);
  const KINDS = ["suite", "task", "method"], LETTER = { suite: "s", task: "t", method: "m" }, FIRST = 100;
  const status = $(".sr");

  // ---- the view, as it stands in the hash: #task=copy&method=ntm,dnc&q=adam&sort=5&at=curves&id=3f9c…&record=3f9c…
  const view = { suite: new Set(), task: new Set(), method: new Set(), id: new Set(), q: "", sort: "", at: "", record: "" };
  let whole = false; // all rows of the table, not the first hundred

  function read() {
    const text = location.hash.slice(1);
    const given = new URLSearchParams(text.includes("=") ? text : "");
    for (const kind of KINDS) {
      const names = (given.get(kind) || "").split(",").map(decodeURIComponent);
      view[kind] = new Set(names.filter(name => Object.hasOwn(data.names[kind], name)));
    }
    view.id = new Set((given.get("id") || "").split(",").filter(id => data.details[id]));
    for (const key of ["q", "sort", "record"]) view[key] = given.get(key) || "";
    view.at = given.get("at") || (text.includes("=") ? "" : text);
  }

  function hash() {
    const parts = KINDS.filter(kind => view[kind].size)
      .map(kind => [kind, [...view[kind]].map(encodeURIComponent).join(",")]);
    if (view.id.size) parts.push(["id", [...view.id].join(",")]);
    for (const key of ["q", "sort", "record"]) if (view[key]) parts.push([key, view[key]]);
    if (!parts.length) return view.at ? "#" + view.at : "";
    if (view.at) parts.push(["at", view.at]);
    return "#" + new URLSearchParams(parts);
  }

  function write(push = false) {
    const address = hash() || location.pathname + location.search;
    history[push ? "pushState" : "replaceState"](null, "", address);
  }

  // ---- filters: one style sheet hides what is not chosen, everywhere at once
  const rules = document.head.appendChild(document.createElement("style"));
  const filters = $(".filters");

  function filter() {
    const hidden = [];
    for (const kind of KINDS) {
      if (!view[kind].size) continue;
      const letter = LETTER[kind], chosen = [];
      for (const [name, i] of Object.entries(data.names[kind]))
        (view[kind].has(name) ? chosen : hidden).push(`[data-${letter}="${i}"]`);
      if (kind === "method") hidden.push(`article[data-t]:not(:has(${chosen.join()}))`);
    }
    rules.textContent = hidden.length ? hidden.join() + "{display:none!important}" : "";
    for (const each of $$(".filter")) {
      const kind = each.dataset.kind, names = [...view[kind]];
      $("b", each).textContent = names.length ? names.join(", ") : "all";
      each.classList.toggle("some", names.length > 0);
      for (const box of $$("input", each)) box.checked = view[kind].has(box.dataset.name);
    }
    if (filters) $(".clear", filters).hidden = ![...KINDS, "id"].some(kind => view[kind].size);
    list();
  }

  if (filters) {
    filters.hidden = false;
    filters.addEventListener("change", event => {
      const kind = event.target.closest(".filter").dataset.kind, name = event.target.dataset.name;
      event.target.checked ? view[kind].add(name) : view[kind].delete(name);
      whole = false;
      filter();
      write();
    });
    filters.addEventListener("click", event => {
      if (event.target.matches(".all")) view[event.target.closest(".filter").dataset.kind].clear();
      else if (event.target.matches(".clear")) for (const kind of [...KINDS, "id"]) view[kind].clear();
      else if (event.target.matches(".link")) return copy(event.target, location.href.split("#")[0] + hash());
      else return;
      filter();
      write();
    });
    document.addEventListener("click", event => {
      for (const open of $$(".filter[open]")) if (!open.contains(event.target)) open.open = false;
    });
    document.addEventListener("keydown", event => {
      const open = $(".filter[open]");
      if (event.key === "Escape" && open) { open.open = false; $("summary", open).focus(); }
    });
  }

  async function copy(button, text) {
    const said = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch { // without the right to write the clipboard, the old way
      const area = document.body.appendChild(make("textarea", text));
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = status.textContent = "copied";
    setTimeout(() => { button.textContent = said; }, 1200);
  }

  // ---- links within the page keep the filters
  document.addEventListener("click", event => {
    const link = event.target.closest("a[href^='#']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const target = link.getAttribute("href").slice(1);
    if (target.startsWith("record=")) return open(target.slice(7));
    if (target.includes("=")) { // another view: the records behind a figure
      location.hash = target;
      return;
    }
    view.at = target;
    write(true);
    go(link);
  });

  function go(from) {
    const target = view.at && document.getElementById(view.at);
    if (!target) return;
    target.scrollIntoView({ behavior: from ? "auto" : "instant" });
    // Blocks that come near are laid out only now, and may move it: half a second, unless the reader moves on.
    let until = 0, over = false;
    const settle = () => {
      if (over) return;
      until ||= performance.now() + 500;
      target.scrollIntoView({ behavior: "instant" });
      if (performance.now() < until) requestAnimationFrame(settle);
    };
    for (const type of ["wheel", "touchstart", "keydown", "pointerdown"])
      addEventListener(type, () => { over = true; }, { once: true, passive: true });
    from ? addEventListener("scrollend", settle, { once: true }) : requestAnimationFrame(settle);
    if (from) { target.setAttribute("tabindex", "-1"); target.focus({ preventScroll: true }); }
  }

  // ---- plots: the point nearest to the pointer, or the arrow keys
  const tip = $(".tip"), SVG = "http://www.w3.org/2000/svg";
  function tell(lines, x, y) {
    tip.replaceChildren(make("b", lines[0]), "\n" + lines.slice(1).filter(Boolean).join("\n"));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 6)) + "px";
    tip.style.top = (y - box.height - 12 > 0 ? y - box.height - 12 : y + 18) + "px";
  }
  const hush = () => { tip.hidden = true; };

  for (const figure of $$(".chart")) {
    const plot = $(".plot", figure), svg = $("svg", plot), pointer = $(".pointer", svg);
    const { grids, lines: given } = data.figures[figure.dataset.figure];
    const lines = given.map(([i, seed, grid, ys, told]) => [i, seed,
      told.split("\n").map((text, k) => [grids[grid][0][k], ys[k], grids[grid][1][k], text])]);
    const series = $$(".series", svg).reverse(), buttons = $$(".legend button", figure);
    const x_label = $(".label", svg).textContent;
    const name = i => $(".what", buttons[i]).textContent;
    const visible = i => getComputedStyle(series[i]).display !== "none";
    let pinned = -1, at = null;

    const light = i => {
      plot.classList.toggle("on", i >= 0);
      series.forEach((each, k) => each.classList.toggle("on", k === i));
    };
    const rest = () => { pointer.replaceChildren(); light(pinned); hush(); };
    const show = (line, k, spoken) => {
      const [i, seed, places] = lines[line], [x, y, where, told] = places[k];
      const ring = document.createElementNS(SVG, "circle");
      for (const [key, value] of [["cx", x], ["cy", y], ["r", 6]]) ring.setAttribute(key, value);
      pointer.replaceChildren(ring);
      light(i);
      const p = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
      const words = [name(i) + (seed ? ", " + seed : ""), where && `${x_label}: ${where}`, told];
      tell(words, p.x, p.y);
      if (spoken) status.textContent = words.filter(Boolean).join(", ");
    };
    plot.addEventListener("pointermove", event => {
      const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const seen = series.map((_, i) => visible(i) && (pinned < 0 || pinned === i));
      let best = 30 * 30, found = null;
      lines.forEach(([i, seed, places], line) => {
        if (!seen[i]) return;
        places.forEach(([x, y], k) => {
          // Between two points of a line the nearer one is meant, and a mean before its seeds.
          const far = (0.4 * (x - p.x)) ** 2 + (y - p.y) ** 2 + (seed ? 4 : 0);
          if (far < best) { best = far; found = [line, k]; }
        });
      });
      found ? show(...found) : rest();
    });
    plot.addEventListener("pointerleave", rest);
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", $("figcaption", figure).textContent + ", arrow keys read the values");
    plot.addEventListener("blur", () => { at = null; rest(); });
    plot.addEventListener("keydown", event => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      const order = lines.map((_, line) => line).filter(line => visible(lines[line][0]));
      if (event.key === "Escape") return rest();
      if (!step || !order.length) return;
      event.preventDefault();
      if (!at || !order.includes(at[0])) at = [order[0], -1];
      if (step[0]) at[0] = order[(order.indexOf(at[0]) + step[0] + order.length) % order.length];
      const last = lines[at[0]][2].length - 1;
      at[1] = Math.max(0, Math.min(last, at[1] + (step[0] ? 0 : step[1])));
      show(...at, true);
    });
    buttons.forEach((button, i) => {
      button.setAttribute("aria-pressed", "false");
      button.classList.add(...[...series[i].classList].filter(c => /^(c\d|grey)$/.test(c)));
      button.addEventListener("pointerenter", () => light(i));
      button.addEventListener("pointerleave", () => light(pinned));
      button.addEventListener("click", () => {
        pinned = pinned === i ? -1 : i;
        buttons.forEach((each, k) => each.setAttribute("aria-pressed", String(k === pinned)));
        light(pinned);
      });
    });
  }
  const pair = cell => {
    const names = [cell.parentNode.cells[0], cell.closest("table").rows[0].cells[cell.cellIndex]].map(head => head.textContent);
    return [`${names[0]} against ${names[1]}: ${cell.textContent}`, ...data.pairs[cell.dataset.p].split("; ")];
  };
  const tellPair = event => {
    const cell = event.target.closest?.("td[data-p]");
    if (!cell) return;
    const box = cell.getBoundingClientRect(), words = pair(cell);
    tell(words, box.left, box.top);
    if (event.type === "focusin") status.textContent = words.join(", ");
  };
  for (const table of $$(".matrix")) { // one stop for the tab key, arrow keys from cell to cell
    const cells = $$("td[data-p]", table);
    cells.forEach((cell, i) => { cell.tabIndex = i ? -1 : 0; });
    for (const type of ["pointerover", "focusin"]) table.addEventListener(type, tellPair);
    for (const type of ["pointerleave", "focusout"]) table.addEventListener(type, hush);
    table.addEventListener("keydown", event => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      const cell = event.target.closest("td");
      if (!step || !cell) return;
      event.preventDefault();
      let [row, column] = [cell.parentNode.rowIndex, cell.cellIndex], next;
      do { // past the diagonal, and what a filter hides
        row += step[0];
        column += step[1];
        next = table.rows[row]?.cells[column];
      } while (next?.tagName === "TD" && (!next.dataset.p || !next.offsetParent));
      if (next?.tagName === "TD") next.focus();
    });
  }
  addEventListener("scroll", hush, { passive: true });

  // ---- records: search, sort, details
  const body = $(".records tbody"), search = $(".search input"), more = $(".rest");
  const rows = body ? [...body.rows].map((tr, i) => ({
    tr, i, id: tr.dataset.id, text: tr.textContent.toLowerCase(), suites: tr.dataset.s.trim().split(" "),
  })) : [];
  const number = name => Object.fromEntries(Object.entries(data.names[name]).map(([key, i]) => [i, key]));
  const named = { suite: number("suite"), task: number("task"), method: number("method") };

  function chosen(row) {
    return (!view.method.size || view.method.has(named.method[row.tr.dataset.m]))
      && (!view.task.size || view.task.has(named.task[row.tr.dataset.t]))
      && (!view.suite.size || row.suites.some(i => view.suite.has(named.suite[i])))
      && (!view.id.size || view.id.has(row.id))
      && view.q.toLowerCase().split(/\s+/).every(word => row.text.includes(word));
  }

  function list() {
    if (!body) return;
    const column = parseInt(view.sort), down = view.sort.endsWith("d") ? -1 : 1;
    const found = rows.filter(chosen);
    if (column >= 0) {
      const numbers = data.sort[column];
      const key = numbers ? row => numbers[row.i] : row => row.tr.cells[column].textContent;
      const keys = new Map(found.map(row => [row, key(row)]));
      found.sort((a, b) => {
        const [x, y] = [keys.get(a), keys.get(b)];
        if (x === null || y === null) return (x === null) - (y === null) || a.i - b.i; // what has none comes last
        return down * (numbers ? x - y : x < y ? -1 : x > y ? 1 : 0) || a.i - b.i;
      });
    }
    const shown = whole ? found : found.slice(0, FIRST);
    body.replaceChildren(...shown.map(row => row.tr));
    more.hidden = shown.length === found.length;
    more.textContent = `show all ${found.length}`;
    $(".search .count").textContent = found.length === rows.length
      ? `${rows.length} records` : `${found.length} of ${rows.length} records`;
    for (const head of $$(".records thead [data-column]")) {
      const own = Number(head.dataset.column) === column;
      own ? head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending") : head.removeAttribute("aria-sort");
    }
  }

  if (body) {
    $(".search").hidden = false;
    search.addEventListener("input", () => { view.q = search.value.trim(); whole = false; list(); write(); });
    more.addEventListener("click", () => { whole = true; list(); });
    for (const head of $$(".records thead [data-column]")) {
      const button = make("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const column = head.dataset.column;
        view.sort = view.sort === column ? column + "d" : view.sort === column + "d" ? "" : column;
        list();
        write();
      });
    }
    body.addEventListener("click", event => {
      const row = event.target.closest("tr");
      if (row && !event.target.closest("a") && !String(getSelection())) open(row.dataset.id);
    });
  }

  const dialog = $("dialog");
  function open(id) {
    const found = data.details[id];
    if (!found) return;
    const row = rows.find(each => each.id === id).tr, command = data.parts[found.command].replace("{seed}", row.cells[3].textContent);
    const part = (title, text) => {
      const box = make("div", "");
      box.append(make("h3", title), make("pre", text));
      return box;
    };
    $("h2", dialog).textContent = `${row.cells[1].textContent} on ${row.cells[0].textContent}, seed ${row.cells[3].textContent}: ${row.cells[4].textContent}`;
    const again = part("The command that makes it again", command), button = make("button", "copy", { type: "button" });
    button.addEventListener("click", () => copy(button, command));
    again.append(button);
    const scores = found.scores.map(([name, score, n]) => `${name}: ${score}, ${n} episodes`).join("\n") || "none: it diverged";
    const pair = (...parts) => { const box = make("div", "", { class: "pair" }); box.append(...parts); return box; };
    $(".body", dialog).replaceChildren(
      make("p", `Record ${id}, ${found.times}`, { class: "note" }), again, part("Scores, ± over test episodes", scores),
      pair(part("Method", data.parts[found.method]), part("Task", data.parts[found.task])),
      pair(part("Budget", data.parts[found.budget]), part("Cost", found.cost)),
      part("Environment", data.parts[found.env]), part("Data", data.parts[found.data]));
    view.record = id;
    write();
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }
  dialog.addEventListener("close", () => { view.record = ""; write(); });
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });

  function follow() {
    read();
    if (search) search.value = view.q;
    filter();
    view.record ? open(view.record) : dialog.open && dialog.close();
    go();
  }
  addEventListener("hashchange", follow);
  let opened = [];
  addEventListener("beforeprint", () => { // paper has all that the filters leave
    opened = $$("main details:not([open])");
    for (const each of opened) each.open = true;
    whole = true;
    list();
  });
  addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
    whole = false;
    list();
  });
  follow();
})();
