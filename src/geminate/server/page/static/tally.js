// Statistics of a running completion: speed, acceptance, draft lengths, origins.

export const ORIGINS = { target: "target model", drafter: "accepted draft", copied: "prompt lookup", forced: "forced by grammar" };
export const REASONS = {
  off: "speculation was off", last_token: "one token was left", no_drafter: "there is no drafter", no_match: "nothing in the text repeats",
  does_not_pay: "drafting did not pay", batch_load: "it did not pay beside other requests", loss_limit: "drafting had lost its limit",
  comparing: "a plain round was timed for comparison", low_confidence: "the drafter was not sure", grammar: "the grammar allowed no draft",
  failed: "the drafter failed",
};
const WINDOW_MS = 2000;

/** Statistics of one completion, from the trace while it runs and from the server's timings at the end. */
export class Tally {
  tokens = 0;
  rounds = [];
  positions = [];
  origins = { target: 0, drafter: 0, copied: 0, forced: 0 };
  timings = null;
  #marks = [];

  /** What is known of a completion from an earlier visit: only the server's timings and the origins of its tokens. */
  static restored(timings, pieces) {
    const made = new Tally();
    made.timings = timings ?? null;
    made.tokens = timings?.predicted_n ?? pieces.length;
    const drafted = timings?.drafted_per_position ?? [];
    made.positions = drafted.map((count, place) => ({ drafted: count, accepted: timings.accepted_per_position?.[place] ?? 0 }));
    for (const { origin } of pieces) if (origin in made.origins) made.origins[origin] += 1;
    return made;
  }

  /** One round of the trace: `{tokens, drafted, accepted}` at time `now` in ms. */
  round(trace, now) {
    const drafted = trace.drafted ?? 0;
    const accepted = trace.accepted ?? 0;
    this.tokens += trace.tokens.length;
    this.rounds.push({ drafted, accepted });
    for (let place = 0; place < drafted; place += 1) {
      this.positions[place] ??= { drafted: 0, accepted: 0 };
      this.positions[place].drafted += 1;
      if (place < accepted) this.positions[place].accepted += 1;
    }
    for (const token of trace.tokens) {
      if (token.origin in this.origins) this.origins[token.origin] += 1;
    }
    this.#marks.push({ now, tokens: this.tokens });
    while (this.#marks.length > 2 && this.#marks[1].now < now - WINDOW_MS) this.#marks.shift();
  }

  /** Tokens/s: the server's figure once available, before that over the last two seconds; null before two rounds. */
  get speed() {
    if (this.timings) return this.timings.predicted_per_second ?? null;
    const first = this.#marks[0];
    const last = this.#marks.at(-1);
    if (!first || last.now <= first.now) return null;
    return ((last.tokens - first.tokens) * 1000) / (last.now - first.now);
  }

  /** Passes that plain decoding would have needed in addition. */
  get saved() { return this.timings?.draft_n_accepted ?? this.rounds.reduce((sum, round) => sum + round.accepted, 0); }

  /** Why rounds had no draft: [words, rounds], most frequent first; the round that ends the prompt never has one. */
  get undrafted() {
    return Object.entries(this.timings?.undrafted ?? {})
      .filter(([reason]) => reason in REASONS)
      .sort(([, a], [, b]) => b - a)
      .map(([reason, rounds]) => [REASONS[reason], rounds]);
  }

  /** Mean number of tokens per round, including the one sampled by the target. */
  get acceptanceLength() {
    return this.timings?.acceptance_length ?? (this.rounds.length ? this.tokens / this.rounds.length : null);
  }
}
