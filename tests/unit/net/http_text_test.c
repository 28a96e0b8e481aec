#include "test.h"
#include "net/http_text.h"

TEST(sse_splits_lines_and_names_events)
{
    qh_str s = {0};
    qh_sse_append(&s, NULL, "one", 3);
    CHECK_STR(qh_str_z(&s), "data: one\n\n");
    qh_str_clear(&s);
    qh_sse_append(&s, "delta", "a\nb\r\nc\rd\n", 9);
    CHECK_STR(qh_str_z(&s), "event: delta\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
    qh_str_clear(&s);
    qh_sse_append(&s, NULL, "", 0);
    CHECK_STR(qh_str_z(&s), "data: \n\n");
    qh_str_deinit(&s);
}

TEST(url_text_survives_a_round_trip)
{
    char all[256];
    for (int i = 0; i < 256; i++) all[i] = (char)i;
    qh_str enc = {0}, dec = {0};
    qh_url_encode(&enc, all, sizeof all);
    CHECK_OK(qh_url_decode(&dec, enc.data, enc.len, true));
    CHECK_INT(dec.len, 256);
    CHECK(memcmp(dec.data, all, 256) == 0);
    qh_str_clear(&dec);
    CHECK_OK(qh_url_decode(&dec, "a+b%2Bc", 7, true));
    CHECK_STR(qh_str_z(&dec), "a b+c");
    qh_str_deinit(&enc);
    qh_str_deinit(&dec);
}

TEST(url_decode_refuses_bad_escapes_and_leaves_out_alone)
{
    static const char *const BAD[] = {"%", "%4", "%zz", "ab%4", "ab%4g", "%%41"};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        qh_str s = {0};
        qh_str_append_z(&s, "kept");
        CHECK_STATUS(qh_url_decode(&s, BAD[i], strlen(BAD[i]), false), QH_EFORMAT);
        CHECK_STR(qh_str_z(&s), "kept");
        qh_str_deinit(&s);
    }
}

TEST(reasons_are_known_or_empty)
{
    CHECK_STR(qh_http_reason(404), "Not Found");
    CHECK_STR(qh_http_reason(299), "");
}

TEST_MAIN()
