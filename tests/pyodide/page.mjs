// A page with Python in it, but for the page: reads cells as lines of JSON from standard input,
// runs them in IPython within Pyodide and answers each with a line of JSON.
//
//     node page.mjs PYODIDE PACKAGE-FOLDER... < cells
import readline from "node:readline";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";

const [, , home, shell, ...folders] = process.argv;
const { loadPyodide } = await import(pathToFileURL(`${home}/pyodide.mjs`));
const pyodide = await loadPyodide({ stdout: () => {}, stderr: () => {} });
folders.forEach((folder, i) => {
  pyodide.FS.mkdirTree(`/packages/${i}`);
  pyodide.FS.mount(pyodide.FS.filesystems.NODEFS, { root: folder }, `/packages/${i}`);
});
pyodide.globals.set("folders", folders.map((_, i) => `/packages/${i}`));
await pyodide.runPythonAsync(readFileSync(shell, "utf-8"));
const run = pyodide.globals.get("run");
process.stdout.write(JSON.stringify({ ready: true }) + "\n");
for await (const line of readline.createInterface({ input: process.stdin })) {
  process.stdout.write((await run(line)) + "\n");
}
process.exit(0);
