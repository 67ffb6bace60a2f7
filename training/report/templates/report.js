// Sorts a table by the column whose heading is pressed, and pressed again the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const rows = [...body.rows];
      const key = (row) => row.cells[column].dataset.value;
      const isText = rows.some((row) => Number.isNaN(Number(key(row))));
      // Numbers begin with the largest, words with A.
      const falls = heading.ariaSort === null ? !isText : heading.ariaSort === "ascending";
      rows.sort((a, b) => isText ? key(a).localeCompare(key(b)) : key(a) - key(b));
      if (falls) rows.reverse();
      for (const other of table.querySelectorAll("thead th")) other.ariaSort = null;
      heading.ariaSort = falls ? "descending" : "ascending";
      body.append(...rows);
    });
  });
}
