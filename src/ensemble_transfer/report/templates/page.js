"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(table, heads, column)));
}
function sort(table, heads, column) {
  const head = heads[column];
  const now = head.getAttribute("aria-sort");
  const order = now === "none" ? head.dataset.first : now === "ascending" ? "descending" : "ascending";
  const sign = order === "ascending" ? 1 : -1;
  for (const other of heads) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", order);
  const body = table.tBodies[0];
  const value = row => row.cells[column].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return sign * (head.dataset.text ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  };
  body.append(...[...body.rows].sort(compare));
}

const filters = document.querySelector(".filters");
filters?.addEventListener("change", () => {
  const wanted = [...filters.querySelectorAll("select")].filter(select => select.value);
  const rows = [...document.querySelectorAll("tbody tr")].filter(row => "budget" in row.dataset);
  for (const row of rows) {
    row.hidden = wanted.some(({ name, value }) => name in row.dataset && row.dataset[name] !== value);
  }
  filters.querySelector("output").value = `${rows.filter(row => !row.hidden).length} of ${rows.length} lines`;
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const area = button.closest("section").querySelector(`textarea[data-format="${button.dataset.copy}"]`);
    try {
      await navigator.clipboard.writeText(area.value);
      const name = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = name; }, 1500);
    } catch { // no permission: show the text, selected
      area.hidden = false;
      area.select();
    }
  });
}

function reveal() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", reveal);
reveal();
