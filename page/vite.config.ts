// Builds the page into the Python package, so that serving needs no node.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { defineConfig, type Plugin } from "vite";

const here = import.meta.dirname;

/** Every file that the built page depends on, by its path below this directory; tests list them the same way. */
function sources(): string[] {
  const below = readdirSync(join(here, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(here, join(entry.parentPath, entry.name)).split(sep).join("/"));
  return ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", ...below].sort();
}

/** The licence of the font, which asks to lie beside it; that of scripts is gathered by Vite. */
const FONT_LICENCE = "node_modules/@fontsource/noto-sans-devanagari/LICENSE";

/** Writes a hash of the sources beside the built files: a test refuses files that were built from others. */
function stamp(): Plugin {
  return {
    name: "stamp",
    generateBundle() {
      const hash = createHash("sha256");
      for (const name of sources()) {
        const content = readFileSync(join(here, name));
        hash.update(`${name}\0${content.length}\0`).update(content);
      }
      this.emitFile({ type: "asset", fileName: "sources.sha256", source: `${hash.digest("hex")}\n` });
      const licence = readFileSync(join(here, FONT_LICENCE));
      this.emitFile({ type: "asset", fileName: "licence-of-noto-sans.txt", source: licence });
    },
  };
}

export default defineConfig({
  base: "./", // the service may stand below a path of a proxy
  plugins: [stamp()],
  build: {
    outDir: "../serve/http/page/assets",
    emptyOutDir: true,
    assetsDir: "assets",
    assetsInlineLimit: 0, // the policy allows no data: addresses
    modulePreload: { polyfill: false },
    target: "es2022",
    license: { fileName: "licences.md" },
  },
});
