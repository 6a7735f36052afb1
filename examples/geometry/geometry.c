/* A component with functions of rich types. It has no main and uses no WASI; what geometry.wit declares is here
 * in the component model's canonical ABI: arguments come as numbers, results that are more go back by a pointer. */

#include <stddef.h>
#include <stdint.h>

#define EXPORT(name) __attribute__((export_name(name)))

/* One call has an instance of its own, so nothing is ever freed. */
static _Alignas(8) uint8_t arena[1 << 20];
static size_t used;

EXPORT("cabi_realloc") void *allocate(void *old, size_t old_size, size_t alignment, size_t size) {
    (void)old;
    (void)old_size;
    used = (used + alignment - 1) & ~(alignment - 1);
    if (size > sizeof arena - used)
        __builtin_trap();
    void *room = arena + used;
    used += size;
    return room;
}

typedef struct {
    const char *start;
    size_t length;
} text;

typedef struct {
    uint8_t is_error;
    union {
        double area;
        text error;
    } of;
} area_result;

enum { POINT, CIRCLE, RECTANGLE };

EXPORT("wasmkeep:geometry/figures@1.0.0#area")
area_result *area(int32_t figure, double first, double second) {
    static const char negative[] = "a length is negative";
    static area_result result;
    if (first < 0 || second < 0) {
        result.is_error = 1;
        result.of.error = (text){negative, sizeof negative - 1};
    } else if (figure == CIRCLE) {
        result.of.area = 3.14159265358979323846 * first * first;
    } else if (figure == RECTANGLE) {
        result.of.area = first * second;
    }
    return &result;
}

typedef struct {
    text *items;
    size_t count;
} words_result;

EXPORT("words") words_result *words(const char *start, size_t length) {
    static words_result result;
    result.items = allocate(NULL, 0, _Alignof(text), (length / 2 + 1) * sizeof(text));
    const char *end = start + length;
    while (start < end) {
        const char *begin = start;
        while (start < end && *start != ' ' && *start != '\n')
            start++;
        if (start > begin)
            result.items[result.count++] = (text){begin, (size_t)(start - begin)};
        else
            start++;
    }
    return &result;
}
