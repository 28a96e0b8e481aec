/* cmocka.h - the part of cmocka's interface that tests/unit/test.h uses, for cross-built tests:
 * there is no cmocka for the other architecture. A failing check ends its test, not the program. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*test_func)(void **state);
    int (*setup_func)(void **state);
    int (*teardown_func)(void **state);
    void *initial_state;
};

enum { CROSS_FAILED = 1, CROSS_SKIPPED };
static jmp_buf cross_end;

#define print_message(...) printf(__VA_ARGS__)
#define print_error(...) fprintf(stderr, __VA_ARGS__)
#define skip() longjmp(cross_end, CROSS_SKIPPED)
#define fail() _fail(__FILE__, __LINE__)

_Noreturn static inline void _fail(const char *file, int line)
{
    print_error("%s:%d: failed\n", file, line);
    longjmp(cross_end, CROSS_FAILED);
}

static inline void _assert_true(uintmax_t ok, const char *what, const char *file, int line)
{
    if (ok) return;
    print_error("not true: %s\n", what);
    _fail(file, line);
}

static inline void _assert_int_equal(uintmax_t a, uintmax_t b, const char *file, int line)
{
    if (a == b) return;
    print_error("%lld is not %lld\n", (long long)a, (long long)b);
    _fail(file, line);
}

static inline void _assert_string_equal(const char *a, const char *b, const char *file, int line)
{
    if (!strcmp(a, b)) return;
    print_error("\"%s\" is not \"%s\"\n", a, b);
    _fail(file, line);
}

static inline int _cmocka_run_group_tests(const char *group, const struct CMUnitTest *tests,
                                          size_t n, void *setup, void *teardown)
{
    static const char *const words[] = {"OK", "FAILED", "SKIPPED"};
    volatile int n_failed = 0;
    (void)setup;
    (void)teardown;
    for (volatile size_t i = 0; i < n; i++) {
        void *state = NULL;
        const int end = setjmp(cross_end);
        if (!end) tests[i].test_func(&state);
        if (end == CROSS_FAILED) n_failed = n_failed + 1;
        printf("[ %8s ] %s\n", words[end], tests[i].name);
    }
    printf("%s: %zu tests, %d failed\n", group, n, n_failed);
    return n_failed;
}
