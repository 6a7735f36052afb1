/* wasi:http 0.2 for C without a generator: the imports as the canonical ABI flattens them, and a small heap.

   Handles are ints. A result that does not fit into one number goes to the last argument, an answer_t: first the
   discriminant, then the payload at an offset that its alignment says. */

#pragma once

#include <stddef.h>
#include <stdint.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name))) extern
#define TYPES(name) IMPORT("wasi:http/types@0.2.0", name)
#define STREAMS(name) IMPORT("wasi:io/streams@0.2.0", name)

typedef union {
  uint8_t bytes[80];
  uint32_t words[20];
  uint64_t longs[10];
} answer_t;

TYPES("[constructor]fields") int fields_new(void);
TYPES("[method]fields.append") void fields_append(int, const char *, size_t, const void *, size_t, answer_t *);
TYPES("[method]fields.get") void fields_get(int, const char *, size_t, answer_t *);
TYPES("[method]fields.entries") void fields_entries(int, answer_t *);
TYPES("[resource-drop]fields") void fields_drop(int);
TYPES("[method]incoming-request.method") void request_method(int, answer_t *);
TYPES("[method]incoming-request.path-with-query") void request_path(int, answer_t *);
TYPES("[method]incoming-request.authority") void request_authority(int, answer_t *);
TYPES("[method]incoming-request.headers") int request_headers(int);
TYPES("[method]incoming-request.consume") void request_consume(int, answer_t *);
TYPES("[method]incoming-body.stream") void incoming_body_stream(int, answer_t *);
TYPES("[static]incoming-body.finish") int incoming_body_finish(int);
TYPES("[method]future-trailers.subscribe") int trailers_subscribe(int);
TYPES("[method]future-trailers.get") void trailers_get(int, answer_t *);
TYPES("[static]response-outparam.set")
void response_set(int, int, int, int, int64_t, int, int, int, int);
TYPES("[constructor]outgoing-response") int response_new(int);
TYPES("[method]outgoing-response.set-status-code") int response_set_status(int, int);
TYPES("[method]outgoing-response.body") void response_body(int, answer_t *);
TYPES("[method]outgoing-body.write") void outgoing_body_write(int, answer_t *);
TYPES("[static]outgoing-body.finish") void outgoing_body_finish(int, int, int, answer_t *);
TYPES("[constructor]outgoing-request") int outgoing_request_new(int);
TYPES("[method]outgoing-request.body") void outgoing_request_body(int, answer_t *);
TYPES("[method]outgoing-request.set-method") int outgoing_request_set_method(int, int, const char *, size_t);
TYPES("[method]outgoing-request.set-path-with-query")
int outgoing_request_set_path(int, int, const char *, size_t);
TYPES("[method]outgoing-request.set-scheme") int outgoing_request_set_scheme(int, int, int, const char *, size_t);
TYPES("[method]outgoing-request.set-authority")
int outgoing_request_set_authority(int, int, const char *, size_t);
TYPES("[constructor]request-options") int options_new(void);
TYPES("[method]request-options.set-first-byte-timeout") int options_set_first_byte(int, int, int64_t);
TYPES("[method]request-options.set-between-bytes-timeout") int options_set_between_bytes(int, int, int64_t);
TYPES("[method]incoming-response.status") int incoming_response_status(int);
TYPES("[method]incoming-response.headers") int incoming_response_headers(int);
TYPES("[method]incoming-response.consume") void incoming_response_consume(int, answer_t *);
TYPES("[method]future-incoming-response.subscribe") int future_response_subscribe(int);
TYPES("[method]future-incoming-response.get") void future_response_get(int, answer_t *);
IMPORT("wasi:http/outgoing-handler@0.2.0", "handle") void outgoing_handle(int, int, int, answer_t *);
STREAMS("[method]input-stream.blocking-read") void stream_read(int, int64_t, answer_t *);
STREAMS("[resource-drop]input-stream") void input_stream_drop(int);
STREAMS("[method]output-stream.check-write") void stream_room(int, answer_t *);
STREAMS("[method]output-stream.write") void stream_write(int, const void *, size_t, answer_t *);
STREAMS("[method]output-stream.blocking-write-and-flush")
void stream_write_and_flush(int, const void *, size_t, answer_t *);
STREAMS("[method]output-stream.subscribe") int output_stream_subscribe(int);
STREAMS("[resource-drop]output-stream") void output_stream_drop(int);
IMPORT("wasi:io/poll@0.2.0", "[method]pollable.block") void pollable_block(int);
IMPORT("wasi:io/poll@0.2.0", "[resource-drop]pollable") void pollable_drop(int);
IMPORT("wasi:clocks/monotonic-clock@0.2.0", "subscribe-duration") int subscribe_duration(int64_t);

IMPORT("wasi:cli/environment@0.2.0", "get-environment") void environment_get(answer_t *);

#define HANDLER __attribute__((export_name("wasi:http/incoming-handler@0.2.0#handle")))

/* What the host lowers into this memory: a heap that is emptied by `heap_reset`, as an instance is short-lived. */
static char heap[256 * 1024] __attribute__((aligned(16)));
static size_t heap_used;

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t align,
                                                                 size_t size) {
  size_t start = (heap_used + align - 1) / align * align;
  if (start + size > sizeof heap) __builtin_trap();
  heap_used = start + size;
  char *fresh = heap + start;
  for (size_t i = 0; i < old_size && i < size; i++) fresh[i] = ((char *)old)[i];
  return fresh;
}

static inline void heap_reset(void) { heap_used = 0; }
