/* test.h - the thin layer over cmocka that our unit tests are written in.
 *
 *     TEST(name_states_the_behaviour) { ... CHECK(x == 1); CHECK_OK(call()); }
 *     TEST_MAIN()
 *
 * Tests register themselves. SKIP(reason) ends one as skipped and prints why. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/err.h"

enum { QH_TEST_MAX = 512 };
static struct CMUnitTest qh_tests[QH_TEST_MAX];
static size_t qh_n_tests;

#define TEST(name)                                                                                 \
    static void name(void);                                                                        \
    static void name##_run(void **state)                                                           \
    {                                                                                              \
        (void)state;                                                                               \
        name();                                                                                    \
    }                                                                                              \
    __attribute__((constructor)) static void name##_register(void)                                 \
    {                                                                                              \
        if (qh_n_tests == QH_TEST_MAX) abort();                                                    \
        qh_tests[qh_n_tests++] = (struct CMUnitTest){#name, name##_run, NULL, NULL, NULL};         \
    }                                                                                              \
    static void name(void)

#define TEST_MAIN()                                                                                \
    int main(void) { return _cmocka_run_group_tests(__FILE__, qh_tests, qh_n_tests, NULL, NULL); }

#define CHECK(cond) _assert_true((cond) ? 1 : 0, #cond, __FILE__, __LINE__)
#define CHECK_INT(a, b)                                                                            \
    _assert_int_equal((uintmax_t)(intmax_t)(a), (uintmax_t)(intmax_t)(b), __FILE__, __LINE__)
#define CHECK_STR(a, b) _assert_string_equal((a), (b), __FILE__, __LINE__)
#define CHECK_OK(status) qh_check_status((status), QH_OK, #status, __FILE__, __LINE__)
#define CHECK_STATUS(status, want) qh_check_status((status), (want), #status, __FILE__, __LINE__)
#define SKIP(reason)                                                                               \
    do {                                                                                           \
        print_message("skipped: %s\n", (reason));                                                  \
        skip();                                                                                    \
    } while (0)

static inline void qh_check_status(qh_status got, qh_status want, const char *what,
                                   const char *file, int line)
{
    if (got != want) {
        print_error("%s: got %s, want %s\n", what, qh_status_name(got), qh_status_name(want));
        _fail(file, line);
    }
}

/* Folder of the shared test material, or NULL: then the test says SKIP. */
static inline const char *qh_test_data(void) { return getenv("QH_TEST_DATA"); }
