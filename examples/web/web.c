/* Answers HTTP requests: `/` greets, everything else is echoed as it arrives. */

#include "wasi_http.h"

static int begin_response(int out, int status, const char *type, size_t type_size, int *body) {
  answer_t answer;
  int headers = fields_new();
  fields_append(headers, "content-type", 12, type, type_size, &answer);
  int response = response_new(headers);
  response_set_status(response, status);
  response_body(response, &answer);
  *body = (int)answer.words[1];
  outgoing_body_write(*body, &answer);
  int stream = (int)answer.words[1];
  response_set(out, 0, response, 0, 0, 0, 0, 0, 0);
  return stream;
}

static void greet(int stream) {
  answer_t answer;
  static const char text[] = "Hello from a keep!\n";
  stream_write_and_flush(stream, text, sizeof text - 1, &answer);
}

static void echo(int request, int stream) {
  answer_t answer;
  request_consume(request, &answer);
  int body = (int)answer.words[1];
  incoming_body_stream(body, &answer);
  int source = (int)answer.words[1];
  for (;;) {
    heap_reset();
    stream_read(source, 4096, &answer);
    if (answer.bytes[0]) break; /* closed: all was read */
    const void *block = (const void *)answer.words[1];
    size_t size = answer.words[2];
    stream_write_and_flush(stream, block, size, &answer);
  }
}

HANDLER void handle(int request, int out) {
  answer_t answer;
  int body;
  request_path(request, &answer);
  const char *path = (const char *)answer.words[1];
  int is_root = answer.words[2] == 1 && path[0] == '/';
  int stream = begin_response(out, 200, is_root ? "text/plain" : "application/octet-stream", is_root ? 10 : 24, &body);
  if (is_root)
    greet(stream);
  else
    echo(request, stream);
  output_stream_drop(stream);
  outgoing_body_finish(body, 0, 0, &answer);
}
