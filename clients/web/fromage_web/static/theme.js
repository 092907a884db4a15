// Runs before anything is painted, so that the page never shows the other colours first.
try {
  const theme = JSON.parse(localStorage.getItem("fromage.theme"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system's colours.
}
