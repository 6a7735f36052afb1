// Makes the component: node componentize.mjs CORE.wasm WIT TARGET.wasm (npm install @bytecodealliance/jco)
import { readFileSync, writeFileSync } from "node:fs";
import { componentEmbed, componentNew } from "@bytecodealliance/jco";

const [core, wit, target] = process.argv.slice(2);
const embedded = await componentEmbed({ binary: readFileSync(core), witSource: readFileSync(wit, "utf8") });
writeFileSync(target, await componentNew(embedded, []));
