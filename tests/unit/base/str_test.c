#include "test.h"
#include "base/arena.h"
#include "base/mem.h"
#include "base/str.h"

TEST(zeroed_string_is_empty_and_terminated)
{
    qh_str s = {0};
    CHECK_STR(qh_str_z(&s), "");
    qh_str_deinit(&s);
}

TEST(appends_grow_and_keep_nul_bytes)
{
    qh_str s = {0};
    for (int i = 0; i < 1000; i++) qh_str_append(&s, "a\0b", 3);
    CHECK_INT(s.len, 3000);
    CHECK(memcmp(s.data + 2997, "a\0b", 4) == 0);
    qh_str_cut_front(&s, 2998);
    CHECK_INT(s.len, 2);
    CHECK(memcmp(s.data, "\0b", 3) == 0);
    qh_str_clear(&s);
    qh_str_appendf(&s, "%d-%s", 7, "x");
    CHECK_STR(qh_str_z(&s), "7-x");
    char *own = qh_str_steal(&s);
    CHECK_STR(own, "7-x");
    CHECK(s.data == NULL);
    qh_free(own);
}

TEST(json_strings_are_valid_whatever_the_bytes)
{
    static const char IN[] = "a\"b\\c\n\x01 \xc3\xa9 \xff \xc0\xaf \xed\xa0\x80 \xf0\x9f\x98\x80 \xe2\x82";
    qh_str s = {0};
    qh_str_append_json(&s, IN, sizeof IN - 1);
    CHECK_STR(qh_str_z(&s), "\"a\\\"b\\\\c\\n\\u0001 \xc3\xa9 \\ufffd \\ufffd\\ufffd "
                            "\\ufffd\\ufffd\\ufffd \xf0\x9f\x98\x80 \\ufffd\\ufffd\"");
    qh_str_deinit(&s);
}

TEST(arena_refuses_more_than_its_limit_and_aligns)
{
    qh_arena *a = qh_arena_new(10000);
    CHECK(((uintptr_t)qh_arena_alloc(a, 1) & 15) == 0);
    CHECK(((uintptr_t)qh_arena_alloc(a, 5000) & 15) == 0);
    CHECK(qh_arena_alloc(a, 5000) == NULL);
    CHECK(qh_arena_alloc(a, SIZE_MAX) == NULL);
    CHECK_STR(qh_arena_strndup(a, "hello", 4), "hell");
    CHECK_INT(qh_arena_used(a), 5006);
    qh_arena_free(a);
}

TEST(try_alloc_refuses_a_product_that_overflows)
{
    CHECK(qh_try_alloc0(SIZE_MAX / 2, 4) == NULL);
    CHECK(qh_try_realloc(NULL, SIZE_MAX / 2, 4) == NULL);
}

TEST(large_pages_start_on_a_huge_page)
{
    size_t len = (5u << 20) + 3;
    unsigned char *p = qh_pages_alloc(len);
    CHECK(p && ((uintptr_t)p & ((2u << 20) - 1)) == 0);
    p[0] = p[len - 1] = 1;
    qh_pages_free(p, len);
}
TEST_MAIN()
