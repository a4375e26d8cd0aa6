// One pass of a Llama over a ragged batch, on every member of a team. Activations are float32, K and V bfloat16.
//
// In every phase members take rows of weights, tokens or work items until none is left; they meet between phases.
// What a token's numbers are does not depend on the other tokens of the pass, nor on the number of members.

template <class Weight>
struct Scratch {  // T rows each, kept from pass to pass
  Numbers<float> x;                   // [T, H] the residual stream
  Numbers<Operand<Weight>> y;         // [max(T, R), H / BLOCK] normed
  Numbers<float> qkv;                 // [T, (N + 2M) D]; queries are rotated, scaled and put into split order in place
  Numbers<Operand<Weight>> attended;  // [T, N D / BLOCK]
  Numbers<float> gate_up;             // [T, 2I]
  Numbers<Operand<Weight>> inner;     // [T, I / BLOCK]
  std::vector<Numbers<float>> scores; // a member each
};

struct Item {  // queries of one KV head of a sequence that attend together
  int64_t sequence, start;  // its first token's place in the pass
  int64_t kv_head, first, count;  // first: place among the sequence's queries of that head
};

template <class Weight>
class Pass {
 public:
  Pass(const MdModel& model, const MdBatch& batch, Scratch<Weight>& scratch, Team& team)
      : m_(model), b_(batch), s_(scratch), team_(team), group_(model.heads / model.kv_heads) {
    const int64_t t = batch.tokens;
    s_.x.make_room(t * m_.hidden);
    s_.y.make_room((t > b_.rows ? t : b_.rows) * m_.hidden / BLOCK);
    s_.qkv.make_room(t * (m_.heads + 2 * m_.kv_heads) * m_.head_dim);
    s_.attended.make_room(t * m_.heads * m_.head_dim / BLOCK);
    s_.gate_up.make_room(t * 2 * m_.intermediate);
    s_.inner.make_room(t * m_.intermediate / BLOCK);
    int64_t longest = 0, start = 0;
    for (int64_t i = 0; i < b_.sequences; i++) {
      longest = b_.context_lens[i] > longest ? b_.context_lens[i] : longest;
      const int64_t queries = b_.query_lens[i] * group_;
      for (int64_t head = 0; head < m_.kv_heads; head++)
        for (int64_t first = 0; first < queries; first += TOGETHER)
          items_.push_back({i, start, head, first, queries - first < TOGETHER ? queries - first : TOGETHER});
      start += b_.query_lens[i];
    }
    s_.scores.resize(team.size());
    for (auto& scores : s_.scores) scores.make_room(TOGETHER * (longest + WIDTH));
  }

  void operator()(int member) {
    shared(b_.tokens, 1, [&](int64_t from, int64_t to) {
      for (int64_t t = from; t < to; t++) embed(t);
    });
    for (int64_t l = 0; l < m_.layers; l++) {
      const MdLayer& layer = m_.layer[l];
      norm(layer.before_attention);
      project(layer, l);
      shared((int64_t)items_.size(), 1, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; i++) attend_item(items_[i], l, member);
      });
      residual(layer.out, s_.attended.data());
      norm(layer.before_mlp);
      activate(layer);
      residual(layer.down, s_.inner.data());
    }
    head();
  }

 private:
  // Work on `count` things in pieces of `piece`, shared with the other members: work(from, to). Returns when all is done.
  template <class Work>
  void shared(int64_t count, int64_t piece, const Work& work) {
    const int64_t pieces = (count + piece - 1) / piece;
    int64_t from, to;
    for (team_.take(pieces, from, to); from < to; team_.take(pieces, from, to))
      work(from * piece, to * piece < count ? to * piece : count);
    team_.meet();
  }

  void embed(int64_t t) {
    const uint16_t* row = m_.embed + b_.token_ids[t] * m_.hidden;
    float* x = &s_.x[t * m_.hidden];
    for (int64_t i = 0; i < m_.hidden; i++) x[i] = widen(row[i]);
  }

  // RMS norm of one row of x, into row `to` of y.
  void norm_row(const float* weight, int64_t row, int64_t to) {
    const float* x = &s_.x[row * m_.hidden];
    Operand<Weight>* y = &s_.y[to * m_.hidden / BLOCK];
    Floats squares = {};
    for (int64_t i = 0; i < m_.hidden; i += WIDTH) {
      const Floats v = load<Floats>(x + i);
      squares += v * v;
    }
    const float scale = 1.0f / __builtin_sqrtf(sum(squares) / (float)m_.hidden + m_.eps);
    for (int64_t i = 0; i < m_.hidden; i += BLOCK)
      put_natural<Weight>(y[i / BLOCK], load<Floats>(x + i) * scale * load<Floats>(weight + i),
                          load<Floats>(x + i + WIDTH) * scale * load<Floats>(weight + i + WIDTH));
  }

  void norm(const float* weight) {
    shared(b_.tokens, 1, [&](int64_t from, int64_t to) {
      for (int64_t t = from; t < to; t++) norm_row(weight, t, t);
    });
  }

  // Queries, keys and values, by whole heads: rotated, queries scaled, keys and values rounded into the store.
  void project(const MdLayer& layer, int64_t l) {
    const int64_t d = m_.head_dim;
    shared(layer.qkv.rows, d, [&](int64_t from, int64_t to) {
      multiply<Weight>(s_.y.data(), b_.tokens, layer.qkv, from, to, {s_.qkv.data(), layer.qkv.rows, false});
      for (int64_t t = 0; t < b_.tokens; t++)
        for (int64_t head = from / d; head < to / d; head++) place(t, head, l);
    });
  }

  float* head_of(int64_t t, int64_t head) { return &s_.qkv[(t * (m_.heads + 2 * m_.kv_heads) + head) * m_.head_dim]; }

  void place(int64_t t, int64_t head, int64_t l) {
    const int64_t d = m_.head_dim, keys = m_.heads, values = m_.heads + m_.kv_heads;
    float* given = head_of(t, head);
    float turned[MOST_DIM];
    if (head < values) rotate(given, t, turned);
    if (head < keys) {
      for (int64_t i = 0; i < d; i += BLOCK)
        store_split(given + i, load<Floats>(turned + i) * m_.scaling, load<Floats>(turned + i + WIDTH) * m_.scaling);
      return;
    }
    const bool is_key = head < values;
    uint16_t* const kept = is_key ? b_.keys[l] : b_.values[l];
    uint16_t* const to = kept + (b_.slots[t] * m_.kv_heads + head - (is_key ? keys : values)) * d;
    for (int64_t i = 0; i < d; i++) to[i] = narrow(is_key ? turned[i] : given[i]);
  }

  void rotate(const float* v, int64_t t, float* turned) {
    const int64_t d = m_.head_dim, half = d / 2;
    const float *cos = m_.cos + b_.positions[t] * d, *sin = m_.sin + b_.positions[t] * d;
    for (int64_t i = 0; i < half; i++) {
      turned[i] = v[i] * cos[i] + v[i + half] * sin[i];
      turned[i + half] = v[i + half] * cos[i + half] + v[i] * sin[i + half];
    }
  }

  void attend_item(const Item& item, int64_t l, int member) {
    const int64_t d = m_.head_dim;
    int64_t lengths[TOGETHER];
    alignas(64) float q[TOGETHER * MOST_DIM];
    Operand<Weight>* out[TOGETHER];
    for (int64_t i = 0; i < item.count; i++) {
      const int64_t query = item.first + i, t = item.start + query / group_;
      const int64_t head = item.kv_head * group_ + query % group_;
      __builtin_memcpy(q + i * d, head_of(t, head), d * sizeof(float));
      out[i] = &s_.attended[(t * m_.heads + head) * d / BLOCK];
      lengths[i] = b_.positions[t] + 1;
    }
    const Queries<Weight> some{q, lengths, out, item.count, d, s_.scores[member].data()};
    const int64_t from = item.kv_head * d;
    attend(some, {b_.keys[l] + from, b_.values[l] + from, m_.kv_heads * d, b_.kv_slots[item.sequence]});
  }

  // x += matrix times the rows.
  void residual(const MdMatrix& matrix, const Operand<Weight>* rows) {
    shared(matrix.rows, GROUP, [&](int64_t from, int64_t to) {
      multiply<Weight>(rows, b_.tokens, matrix, from, to, {s_.x.data(), m_.hidden, true});
    });
  }

  // silu(gate) * up.
  void activate(const MdLayer& layer) {
    const int64_t inner = m_.intermediate, both = 2 * inner;
    float* const gate_up = s_.gate_up.data();
    shared(inner, GROUP < BLOCK ? BLOCK : GROUP, [&](int64_t from, int64_t to) {
      const Target target{gate_up, both, false};
      multiply<Weight>(s_.y.data(), b_.tokens, layer.gate_up, from, to, target);
      multiply<Weight>(s_.y.data(), b_.tokens, layer.gate_up, inner + from, inner + to, target);
      for (int64_t t = 0; t < b_.tokens; t++)
        for (int64_t i = from; i < to; i += BLOCK)
          put_natural<Weight>(s_.inner[(t * inner + i) / BLOCK], gated(gate_up + t * both + i),
                              gated(gate_up + t * both + i + WIDTH));
    });
  }

  Floats gated(const float* gate) {
    const Floats g = load<Floats>(gate);
    return g / (1.0f + exponential(-g)) * load<Floats>(gate + m_.intermediate);
  }

  void head() {
    if (b_.rows == 0) return;
    shared(b_.rows, 1, [&](int64_t from, int64_t to) {
      for (int64_t r = from; r < to; r++) norm_row(m_.norm, b_.logit_rows[r], r);
    });
    shared(m_.head.rows, GROUP, [&](int64_t from, int64_t to) {
      multiply<Weight>(s_.y.data(), b_.rows, m_.head, from, to, {b_.logits, m_.head.rows, false});
    });
  }

  const MdModel& m_;
  const MdBatch& b_;
  Scratch<Weight>& s_;
  Team& team_;
  const int64_t group_;
  std::vector<Item> items_;
};

template <class Weight>
class Llama final : public Runner {
 public:
  Llama(const MdModel& model, int threads) : model_(model), layers_(model.layer, model.layer + model.layers), team_(threads) {
    model_.layer = layers_.data();
  }

  void run(const MdBatch& batch) override {
    Pass<Weight> pass(model_, batch, scratch_, team_);
    team_.run([&](int member) { pass(member); });
  }

 private:
  MdModel model_;
  std::vector<MdLayer> layers_;
  Team team_;
  Scratch<Weight> scratch_;
};

Runner* make(const MdModel& model, int threads) {
  if (model.head.scales) return new Llama<int8_t>(model, threads);
  return new Llama<uint16_t>(model, threads);
}
