/* Answers HTTP requests in as many good and bad ways as a keep has to cope with; the path says which. */

#include "../../../examples/web/wasi_http.h"

enum { REQUEST_DENIED = 15 };

static answer_t answer;
static int out;

static size_t length(const char *text) {
  size_t size = 0;
  while (text[size]) size++;
  return size;
}

static int same(const char *left, const char *right, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (left[i] != right[i]) return 0;
  return right[size] == 0;
}

typedef struct {
  int body, stream;
} reply;

static int headers(void) {
  int fields = fields_new();
  fields_append(fields, "content-type", 12, "text/plain", 10, &answer);
  return fields;
}

static reply begin(int status, int fields) {
  reply given;
  int response = response_new(fields);
  response_set_status(response, status);
  response_body(response, &answer);
  given.body = (int)answer.words[1];
  outgoing_body_write(given.body, &answer);
  given.stream = (int)answer.words[1];
  response_set(out, 0, response, 0, 0, 0, 0, 0, 0);
  return given;
}

static int put(reply to, const void *text, size_t size) {
  stream_write_and_flush(to.stream, text, size, &answer);
  return answer.bytes[0] == 0;
}

static void say(reply to, const char *text) { put(to, text, length(text)); }

static void say_number(reply to, uint32_t number) {
  char digits[12];
  size_t at = sizeof digits;
  do digits[--at] = (char)('0' + number % 10);
  while (number /= 10);
  put(to, digits + at, sizeof digits - at);
}

static int finish(reply to) {
  output_stream_drop(to.stream);
  outgoing_body_finish(to.body, 0, 0, &answer);
  return answer.bytes[0] == 0;
}

static void reply_with(const char *text) {
  reply to = begin(200, headers());
  say(to, text);
  finish(to);
}

static void describe(int request) {
  reply to = begin(200, headers());
  request_method(request, &answer);
  say_number(to, answer.bytes[0]);
  say(to, "\n");
  request_path(request, &answer);
  put(to, (const void *)answer.words[1], answer.words[2]);
  say(to, "\n");
  request_authority(request, &answer);
  put(to, (const void *)answer.words[1], answer.words[2]);
  say(to, "\n");
  fields_entries(request_headers(request), &answer);
  const uint32_t(*entries)[4] = (const void *)answer.words[0];
  size_t count = answer.words[1];
  for (size_t i = 0; i < count; i++) {
    put(to, (const void *)entries[i][0], entries[i][1]);
    say(to, ": ");
    put(to, (const void *)entries[i][2], entries[i][3]);
    say(to, "\n");
  }
  finish(to);
}

static void environment(void) {
  reply to = begin(200, headers());
  environment_get(&answer);
  const uint32_t(*entries)[4] = (const void *)answer.words[0];
  size_t count = answer.words[1];
  for (size_t i = 0; i < count; i++) {
    put(to, (const void *)entries[i][0], entries[i][1]);
    say(to, "=");
    put(to, (const void *)entries[i][2], entries[i][3]);
    say(to, "\n");
  }
  finish(to);
}

/* Passes all of a stream on, until its end or until nobody takes any more. */
static void copy(int source, reply to) {
  for (;;) {
    heap_reset();
    stream_read(source, 65536, &answer);
    if (answer.bytes[0]) return;
    const char *block = (const char *)answer.words[1];
    size_t size = answer.words[2];
    for (size_t done = 0; done < size;) {
      size_t part = size - done < 4096 ? size - done : 4096;
      if (!put(to, block + done, part)) return;
      done += part;
    }
  }
}

static int source_of(int request, int *body) {
  request_consume(request, &answer);
  *body = (int)answer.words[1];
  incoming_body_stream(*body, &answer);
  return (int)answer.words[1];
}

static void echo(int request) {
  int body;
  int source = source_of(request, &body);
  reply to = begin(200, headers());
  copy(source, to);
  finish(to);
}

/* Answers when it has all of the body. */
static void swallow(int request) {
  int body;
  int source = source_of(request, &body);
  do {
    heap_reset();
    stream_read(source, 4096, &answer);
  } while (!answer.bytes[0]);
  int whole = answer.bytes[4]; /* stream-error: closed */
  if (!whole) return;
  reply_with("swallowed");
}

static void trailers(int request) {
  int body;
  int source = source_of(request, &body);
  reply to = begin(200, headers());
  copy(source, to);
  input_stream_drop(source);
  int future = incoming_body_finish(body);
  int pollable = trailers_subscribe(future);
  pollable_block(pollable);
  pollable_drop(pollable);
  trailers_get(future, &answer);
  int had = answer.bytes[0] && !answer.bytes[8] && !answer.bytes[16] && answer.bytes[24];
  int given = had ? (int)answer.words[7] : -1;
  int fields = fields_new();
  if (had) {
    fields_get(given, "x-sum", 5, &answer);
    const uint32_t *value = (const uint32_t *)answer.words[0];
    if (answer.words[1]) fields_append(fields, "x-sum", 5, (const void *)value[0], value[1], &answer);
  }
  fields_append(fields, "x-last", 6, "yes", 3, &answer);
  output_stream_drop(to.stream);
  outgoing_body_finish(to.body, 1, fields, &answer);
}

static void wrong_length(const char *announced, const char *text) {
  int fields = headers();
  fields_append(fields, "content-length", 14, announced, length(announced), &answer);
  reply to = begin(200, fields);
  say(to, text);
  finish(to);
}

static void refused_headers(void) {
  static const char *const names[] = {"connection", "Transfer-Encoding", "host", "bad name", "x-fine"};
  int fields = fields_new();
  uint32_t results = 0;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    fields_append(fields, names[i], length(names[i]), "x", 1, &answer);
    results = results * 10 + (answer.bytes[0] ? 2u + answer.bytes[1] : 1u);
  }
  fields_append(fields, "x-split", 7, "a\r\nb: c", 7, &answer);
  results = results * 10 + (answer.bytes[0] ? 2u + answer.bytes[1] : 1u);
  reply to = begin(200, headers());
  say_number(to, results);
  finish(to);
}

static void cookies(void) {
  int fields = headers();
  fields_append(fields, "Set-Cookie", 10, "a=1", 3, &answer);
  fields_append(fields, "Set-Cookie", 10, "b=2", 3, &answer);
  fields_append(fields, "wasmkeep-problem", 16, "forged", 6, &answer);
  finish(begin(200, fields));
}

static void flood(void) {
  static const char block[4096];
  reply to = begin(200, headers());
  while (put(to, block, sizeof block)) continue;
}

static void exhaust(void) {
  for (size_t page; (page = __builtin_wasm_memory_grow(0, 1)) != (size_t)-1;)
    for (size_t at = 0; at < 65536; at += 4096) ((volatile char *)(page * 65536))[at] = 1;
  __builtin_trap();
}

static void count(void) {
  static uint32_t requests;
  reply to = begin(200, headers());
  say_number(to, ++requests);
  finish(to);
}

static int header_of(int fields, const char *name, const char **value, size_t *size) {
  fields_get(fields, name, length(name), &answer);
  if (!answer.words[1]) return 0;
  const uint32_t *found = (const uint32_t *)answer.words[0];
  *value = (const char *)found[0];
  *size = found[1];
  return 1;
}

/* Asks `x-authority` for `x-path` by http or, with `x-tls`, by https; with `x-post`, sends this request's body. */
static void fetch(int request) {
  const char *authority, *path, *unused;
  size_t authority_size, path_size, unused_size;
  int given = request_headers(request);
  header_of(given, "x-authority", &authority, &authority_size);
  header_of(given, "x-path", &path, &path_size);
  int tls = header_of(given, "x-tls", &unused, &unused_size);
  int post = header_of(given, "x-post", &unused, &unused_size);
  int made = outgoing_request_new(fields_new());
  outgoing_request_set_scheme(made, 1, tls, 0, 0);
  int wrong = outgoing_request_set_authority(made, 1, authority, authority_size) |
              outgoing_request_set_path(made, 1, path, path_size) << 1;
  int outgoing = -1, sink = -1;
  if (post) {
    outgoing_request_set_method(made, 2, 0, 0);
    outgoing_request_body(made, &answer);
    outgoing = (int)answer.words[1];
    outgoing_body_write(outgoing, &answer);
    sink = (int)answer.words[1];
  }
  int options = options_new();
  options_set_first_byte(options, 1, 2000000000);
  options_set_between_bytes(options, 1, 2000000000);
  outgoing_handle(made, 1, options, &answer);
  int code = answer.bytes[0] ? answer.bytes[8] : -1;
  int future = (int)answer.words[2];
  if (code < 0 && post) {
    int body;
    int source = source_of(request, &body);
    copy(source, (reply){outgoing, sink});
    output_stream_drop(sink);
    outgoing_body_finish(outgoing, 0, 0, &answer);
  }
  if (code < 0) {
    int pollable = future_response_subscribe(future);
    pollable_block(pollable);
    pollable_drop(pollable);
    future_response_get(future, &answer);
    if (answer.bytes[16]) code = answer.bytes[24];
  }
  int response = (int)answer.words[6];
  reply to = begin(200, headers());
  if (wrong) say(to, "invalid ");
  if (code >= 0) {
    say(to, "error ");
    say_number(to, (uint32_t)code);
  } else {
    say_number(to, (uint32_t)incoming_response_status(response));
    say(to, " ");
    incoming_response_consume(response, &answer);
    incoming_body_stream((int)answer.words[1], &answer);
    copy((int)answer.words[1], to);
  }
  finish(to);
}

HANDLER void handle(int request, int outparam) {
  out = outparam;
  request_path(request, &answer);
  const char *path = (const char *)answer.words[1];
  size_t size = answer.words[2];
  for (size_t i = 0; i < size; i++)
    if (path[i] == '?') size = i;
#define AT(name) if (same(path, name, size))
  AT("/hello") return reply_with("Hello, world!\n");
  AT("/describe") return describe(request);
  AT("/environment") return environment();
  AT("/echo") return echo(request);
  AT("/swallow") return swallow(request);
  AT("/trailers") return trailers(request);
  AT("/trap") __builtin_trap();
  AT("/trap-late") {
    say(begin(200, headers()), "begun");
    __builtin_trap();
  }
  AT("/spin") for (volatile int turns = 0;; turns++) continue;
  AT("/spin-late") {
    say(begin(200, headers()), "begun");
    for (volatile int turns = 0;; turns++) continue;
  }
  AT("/sleep") pollable_block(subscribe_duration(3600000000000));
  AT("/nap") {
    pollable_block(subscribe_duration(20000000));
    return reply_with("rested");
  }
  AT("/count") return count();
  AT("/memory") return exhaust();
  AT("/nothing") return;
  AT("/error") return response_set(out, 1, REQUEST_DENIED, 0, 0, 0, 0, 0, 0);
  AT("/unfinished") return say(begin(200, headers()), "begun");
  AT("/too-short") return wrong_length("10", "short");
  AT("/too-long") return wrong_length("3", "long");
  AT("/no-content") return (void)finish(begin(204, fields_new()));
  AT("/teapot") return (void)finish(begin(418, headers()));
  AT("/unknown-status") return (void)finish(begin(799, headers()));
  AT("/refused-headers") return refused_headers();
  AT("/cookies") return cookies();
  AT("/flood") return flood();
  AT("/header-bomb") for (int fields = fields_new();;) fields_append(fields, "x-long", 6, path, 6, &answer);
  AT("/handle-bomb") for (;;) fields_new();
  AT("/write-bomb") {
    stream_write(begin(200, headers()).stream, 0, 100000, &answer);
    return;
  }
  AT("/fetch") return fetch(request);
  finish(begin(404, headers()));
}
