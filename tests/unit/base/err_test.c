#include "test.h"
#include "base/mapfile.h"

TEST(the_first_failure_wins_and_can_be_prefixed)
{
    qh_err err = {0};
    CHECK_STATUS(qh_fail(&err, QH_EFORMAT, "bad %d", 7), QH_EFORMAT);
    CHECK_STATUS(qh_fail(&err, QH_EIO, "later"), QH_EIO);
    CHECK_INT(err.status, QH_EFORMAT);
    qh_err_prefix(&err, "file %s", "x");
    CHECK_STR(err.msg, "file x: bad 7");
    qh_err_clear(&err);
    qh_err_prefix(&err, "nothing");
    CHECK_STR(err.msg, "");
    CHECK_STATUS(qh_fail(NULL, QH_EIO, "nobody listens"), QH_EIO);
}

TEST(long_messages_are_cut_visibly)
{
    qh_err err = {0};
    qh_fail(&err, QH_EIO, "%02000d", 1);
    CHECK_STR(err.msg + QH_ERR_MSG_BYTES - 4, "...");
    qh_err_prefix(&err, "%02000d", 2);
    CHECK_STR(err.msg + QH_ERR_MSG_BYTES - 4, "...");
}

TEST(status_names_match_their_constants)
{
    CHECK_STR(qh_status_name(QH_ECONTEXT), "ECONTEXT");
    CHECK_STR(qh_status_name((qh_status)999), "EUNKNOWN");
}

TEST(mapping_names_the_file_it_cannot_open)
{
    qh_mapfile m;
    qh_err err = {0};
    CHECK_STATUS(qh_mapfile_open(&m, "/nonexistent/x", &err), QH_ENOTFOUND);
    CHECK(strstr(err.msg, "/nonexistent/x"));
    qh_err_clear(&err);
    CHECK_STATUS(qh_mapfile_open(&m, "/", &err), QH_EFORMAT);
    CHECK_OK(qh_mapfile_open(&m, "/proc/self/exe", NULL));
    CHECK(m.len_bytes > 4 && memcmp(m.data, "\177ELF", 4) == 0);
    qh_mapfile_close(&m);
}
TEST_MAIN()
