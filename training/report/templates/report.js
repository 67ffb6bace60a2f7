// Sorts a table by the column whose heading is pressed, and back.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const key = (row) => row.cells[column].dataset.value;
      const isText = row => row.cells[column].tagName === "TH";
      const falling = heading.ariaSort === null ? !isText(body.rows[0])
        : heading.ariaSort === "ascending";
      const rows = [...body.rows].sort((a, b) => isText(a)
        ? key(a).localeCompare(key(b)) : Number(key(a)) - Number(key(b)));
      if (falling) rows.reverse();
      for (const other of table.querySelectorAll("thead th")) other.ariaSort = null;
      heading.ariaSort = falling ? "descending" : "ascending";
      body.append(...rows);
    });
  });
}
