#include "net/egress.h"
#include "test.h"

static bool allows(const char *rule, const char *host, int port)
{
    qh_egress e = {&rule, rule ? 1 : 0};
    return !qh_egress_allow(&e, host, port, NULL);
}

TEST(loopback_is_always_reached_and_only_what_is_loopback)
{
    static const char *const YES[] = {"localhost", "LocalHost", "127.0.0.1", "127.8.9.10", "[::1]"};
    static const char *const NO[] = {"localhost.example.com", "127.0.0.1.example.com", "128.0.0.1", "0.0.0.0",
                                     "127.1", "[::ffff:127.0.0.1]", "[::2]", "example.com", ""};
    for (size_t i = 0; i < sizeof YES / sizeof *YES; i++) CHECK(allows(NULL, YES[i], 80));
    for (size_t i = 0; i < sizeof NO / sizeof *NO; i++) CHECK(!allows(NULL, NO[i], 80));
}

TEST(rules_match_names_ports_and_everything_below_a_name)
{
    CHECK(allows("api.example.com", "api.example.com", 443) && allows("API.example.com", "api.Example.com", 80));
    CHECK(!allows("example.com", "api.example.com", 80) && !allows("example.com", "badexample.com", 80));
    CHECK(!allows("example.com", "example.com.evil.org", 80));
    CHECK(allows("example.com:8443", "example.com", 8443) && !allows("example.com:8443", "example.com", 443));
    CHECK(allows("*.example.com", "a.b.example.com", 80) && !allows("*.example.com", "example.com", 80));
    CHECK(!allows("*.example.com", "badexample.com", 80) && !allows("*.example.com", ".example.com", 80));
    CHECK(allows("[2001:db8::1]:80", "[2001:db8::1]", 80) && !allows("[2001:db8::1]", "[2001:db8::2]", 80));
    CHECK(allows("*", "anything.at.all", 1) && allows("*:443", "x.org", 443) && !allows("*:443", "x.org", 80));
}

TEST(rules_that_can_never_match_are_refused)
{
    static const char *const GOOD[] = {"a", "example.com", "10.0.0.1:80", "[::1]", "[2001:db8::1]:443", "*", "*:443", "*.a.b"};
    static const char *const BAD[] = {"", ":80", "a:", "a:0", "a:65536", "a:8x", "http://a", "a/b", "a b", "*a.com", "*.",
                                      ".a", "[::1", "[x]", "2001:db8::1", "a:80:90", "a:-1"};
    qh_err err = {0};
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) CHECK_OK(qh_egress_check_rule(GOOD[i], &err));
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        if (qh_egress_check_rule(BAD[i], NULL) != QH_EINVAL) fail_msg("taken: '%s'", BAD[i]);
}

TEST(a_refusal_names_the_flag)
{
    qh_egress e = {0};
    qh_err err = {0};
    CHECK(qh_egress_allow(&e, "example.com", 443, &err) == QH_EACCES);
    CHECK(strstr(err.msg, "example.com") && strstr(err.msg, "--allow-net example.com"));
}

TEST_MAIN()
