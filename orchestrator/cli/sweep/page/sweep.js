// sweep.html: a click on a column's name sorts the table by it, another one the other way round. What is empty is last.
"use strict";
const body = document.querySelector("tbody");
const heads = [...document.querySelectorAll("th")];

function sortBy(at, sign) {
  const value = (row) => row.cells[at].dataset.sort ?? row.cells[at].textContent;
  const numeric = heads[at].classList.contains("number");
  const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, { numeric: true });
  const rows = [...body.rows].map((row) => [value(row), row]);
  rows.sort(([a], [b]) => (a === "") - (b === "") || (a === "" ? 0 : sign * compare(a, b)));
  body.append(...rows.map(([, row]) => row));
  heads.forEach((head, place) => head.setAttribute("aria-sort", place !== at ? "none" : sign > 0 ? "ascending" : "descending"));
}

heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
  sortBy(at, head.getAttribute("aria-sort") === "ascending" ? -1 : 1);
}));
