// Shifts the letters of standard input by as many places as the argument says, usually 13.

const A: u8 = 0x41;
const Z: u8 = 0x5a;
const CASE: u8 = 0x20;

function shifted(byte: u8, places: i32): u8 {
  const capital = byte & ~CASE;
  if (capital < A || capital > Z) return byte;
  return <u8>((<i32>(capital - A) + places) % 26) + A + (byte & CASE);
}

const given = process.argv.length > 1 ? I32.parseInt(process.argv[1]) : 13;
const places = ((given % 26) + 26) % 26;
const buffer = new ArrayBuffer(4096);
const bytes = Uint8Array.wrap(buffer);

for (let length = process.stdin.read(buffer); length > 0; length = process.stdin.read(buffer)) {
  for (let i = 0; i < length; ++i) bytes[i] = shifted(bytes[i], places);
  process.stdout.write(buffer.slice(0, length));
}
