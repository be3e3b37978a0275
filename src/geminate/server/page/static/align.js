// Maps traced tokens to pieces of the text; the two arrive side by side, but not one to one.

/**
 * Pairs text with tokens.
 *
 * The text is always shown exactly as received; tokens only add the origin of each piece. Tokens may have no text
 * (special tokens), text may be held back (stop strings), and several byte tokens may form one character, in which case
 * the text of each is U+FFFD. Pieces are `{text, kind, origin, ids}`; origin is null where no token matches.
 */
export class Aligner {
  #tokens = [];
  #parts = [];

  /** Tokens of a chunk: `[{id, text, origin}]`. Called before `text` of the same chunk. */
  tokens(fresh) {
    this.#tokens.push(...fresh);
  }

  /** Text of a chunk; returns the pieces that are now matched. `kind`: content or reasoning. */
  text(kind, text) {
    if (text) {
      const last = this.#parts.at(-1);
      if (last?.kind === kind) last.text += text;
      else this.#parts.push({ kind, text });
    }
    return this.#match();
  }

  /** At the end: the remaining text, with its most likely origin. */
  flush() {
    const pieces = this.#match();
    for (const part of this.#parts) pieces.push(this.#group(part.kind, part.text, this.#tokens.splice(0)));
    this.#parts = [];
    return pieces;
  }

  #match() {
    const pieces = [];
    while (this.#parts.length && this.#tokens.length) {
      const part = this.#parts[0];
      const found = this.#find(part.text);
      if (!found) break;
      const { skip, at } = found;
      // Tokens before the matching one produced the text before it, or no text.
      const before = this.#tokens.splice(0, skip);
      if (at > 0) {
        pieces.push(this.#group(part.kind, part.text.slice(0, at), before));
        part.text = part.text.slice(at);
      }
      const token = this.#tokens[0];
      const size = token.text.length;
      if (part.text.length >= size) {
        pieces.push({ text: part.text.slice(0, size), kind: part.kind, origin: token.origin, ids: [token.id] });
        part.text = part.text.slice(size);
        this.#tokens.shift();
      } else {
        // The rest of this token's text is still held back.
        pieces.push({ text: part.text, kind: part.kind, origin: token.origin, ids: [token.id] });
        this.#tokens[0] = { ...token, text: token.text.slice(part.text.length) };
        part.text = "";
      }
      if (!part.text) this.#parts.shift();
    }
    return pieces;
  }

  /** The next matching token: how many tokens to skip, and where its text starts. */
  #find(text) {
    let bytes = false;
    for (let skip = 0; skip < this.#tokens.length; skip += 1) {
      const own = this.#tokens[skip].text;
      if (isBytes(own)) {
        bytes = true;
      } else if (own) {
        if (text.startsWith(own) || own.startsWith(text)) return { skip, at: 0 };
        const at = bytes ? text.indexOf(own) : -1;
        if (at > 0) return { skip, at };
      }
    }
    return null;
  }

  #group(kind, text, tokens) {
    const made = tokens.filter((token) => isBytes(token.text));
    const from = made.length ? made : tokens;
    return { text, kind, origin: from.at(-1)?.origin ?? null, ids: from.map((token) => token.id) };
  }
}

/** Whether a token is part of a character: its text is a replacement character or the name of a byte. */
function isBytes(text) {
  return text.includes("\uFFFD") || /^<0x[0-9A-F]{2}>$/.test(text);
}
