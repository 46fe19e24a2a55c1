"use strict";

// Tables whose rows are put in order by a click on a heading. Without it they stay as they are.
(() => {
  const text = (row, column) => row.cells[column].textContent.trim();

  function compare(a, b, column, byNumber) {
    const [left, right] = [text(a, column), text(b, column)];
    if (!byNumber) return left.localeCompare(right, "en", {numeric: true});
    return parseFloat(left) - parseFloat(right);
  }

  function sort(table, heading) {
    const column = heading.cellIndex;
    const byNumber = heading.dataset.sort === "number";
    const falling = heading.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const isEmpty = (row) => byNumber && Number.isNaN(parseFloat(text(row, column)));
    const rows = Array.from(body.rows);
    // Rows without a value come last in either order.
    const full = rows.filter((row) => !isEmpty(row));
    full.sort((a, b) => (falling ? -1 : 1) * compare(a, b, column, byNumber));
    body.append(...full, ...rows.filter(isEmpty));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.querySelectorAll("th[data-sort]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading));
      heading.append(button);
    }
  }
})();
