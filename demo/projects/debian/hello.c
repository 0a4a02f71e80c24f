#include <stdio.h>

int main(void) {
    puts("hello from a Debian package");
    return 0;
}
