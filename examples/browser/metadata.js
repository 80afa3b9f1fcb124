/**
 * Read the metadata of an ONNX file, which onnxruntime-web does not provide.
 *
 * An ONNX file is a protobuf message. Its field 14 is repeated: an entry with a key (field 1) and a
 * value (field 2). The values that fcos_d2 writes are JSON.
 */
export function readMetadata(bytes) {
  const metadata = {};
  for (const [field, entry] of readFields(bytes)) {
    if (field !== 14) continue;
    const parts = Object.fromEntries(readFields(entry));
    const [key, value] = [parts[1], parts[2]].map(x => new TextDecoder().decode(x));
    try {
      metadata[key] = JSON.parse(value);
    } catch {
      metadata[key] = value;
    }
  }
  return metadata;
}

/** Yield the number and the bytes of each field of a message that has a length. */
function* readFields(bytes) {
  let position = 0;
  const readNumber = () => {
    let number = 0, factor = 1, byte;
    do {
      byte = bytes[position++];
      number += (byte & 127) * factor;
      factor *= 128;
    } while (byte & 128);
    return number;
  };
  while (position < bytes.length) {
    const tag = readNumber(), field = Math.floor(tag / 8), type = tag % 8;
    if (type === 2) {
      const length = readNumber();
      yield [field, bytes.subarray(position, position + length)];
      position += length;
    } else if (type === 0) readNumber();
    else if (type === 1) position += 8;
    else if (type === 5) position += 4;
    else throw new Error("model.onnx is not an ONNX file.");
  }
}
