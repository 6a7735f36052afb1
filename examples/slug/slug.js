// The functions of slug.wit.

export function slug(title) {
  return title
    .normalize("NFKD")
    .toLowerCase()
    .replace(/[\u0300-\u036f]/g, "")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "");
}

// What is thrown becomes the error of a `result`.
export function pick(document, keys) {
  let value;
  try {
    value = JSON.parse(document);
  } catch (error) {
    throw `no JSON: ${error.message}`;
  }
  for (const key of keys) {
    if (value === null || typeof value !== "object" || !Object.hasOwn(value, key)) throw `nothing is called ${key}`;
    value = value[key];
  }
  return JSON.stringify(value);
}
