"""How a Dockerfile is written: directives, comments, lines, here-documents, quotes."""

from __future__ import annotations

from corpus.case import Case, build, on_base

LANGUAGE: dict[str, Case] = {
    "text that is not UTF-8": Case(b"# \xff\nFROM base\nLABEL a=J\xe9r\xf4me\nCOPY <<'E' /a\n\xe9\nE\n"),
    "a syntax directive": build("# syntax=docker/dockerfile:1\nFROM base\nENV A=1\n"),
    "a backtick as escape": build(
        """
        # escape=`
        FROM base
        ENV A=one`
        two B=c:\\dir\\file C="q`"q" D=`$HOME
        RUN echo $A `
          $B >/out
        COPY a \\windows\\a
        WORKDIR c:\\app
        """,
        {"a": b"1"},
    ),
    "a directive after a comment is a comment": build("# a comment\n# escape=`\nFROM base\nENV A=x`\n"),
    "a directive after an empty line is a comment": build("\n# escape=`\nFROM base\nENV A=x` B=2\n"),
    "directives in any case, with spaces": build("#  EsCaPe =  ` \nFROM base\nENV A=x`\n  B=2\n"),
    "a check directive": build("# check=skip=all\nfrom base\nmaintainer me\n"),
    "comments and empty lines": build(
        """
        # first

        FROM base
          # indented
        ENV A=1
        #ENV B=2
        LABEL hash=a#b
        RUN echo c # of the shell

        RUN echo a \\
        # within
          # indented within
            b >/out
        """
    ),
    "an empty line in a continuation": build("FROM base\nRUN echo a \\\n\n\n  b >/out\n"),
    "blanks after a continuation": build("FROM base\nRUN echo a \\  \t\n  b >/out\n"),
    "a continuation at the end of the file": build("FROM base\nENV A=1 \\\n"),
    "a continuation without a blank": on_base("ENV A=on\\\ne\nRUN echo on\\\n   e >/o\\\nut\n"),
    "instructions in any case": build("from base\nEnv A=1\ncOpY a /b\nrun cat /b >/c\n", {"a": b"1"}),
    "blanks and tabs": build("FROM\tbase\n  ENV\t A=1   B=2\n\tCOPY \t a\t/b\t\n", {"a": b"1"}),
    "carriage returns": Case(b"FROM base\r\nENV A=1 \\\r\n  B=2\r\nRUN echo $A \\\r\n $B >/out\r\n"),
    "a byte order mark": Case(b"\xef\xbb\xbf# escape=`\nFROM base\nENV A=x`\n B=2\n"),
    "no newline at the end": Case(b"FROM base\nENV A=1"),
    "text that is not ASCII": build("FROM base\nENV A=Grüße\nLABEL ключ=значение\nCOPY дом /дом\n", {"дом": b"1"}),
    # quotes
    "ENV with quotes": on_base(
        """
        ENV A="one two" B='three $A' C=four\\ five D="say \\"hi\\"" E='a"b' F="a'b" G=x"y z"w
        ENV H="back\\\\slash" I='back\\slash' J=a\\b K="a\\b" L="" M=''
        """
    ),
    "ENV in the old form": on_base(
        """
        ENV A one two  three
        ENV B "quoted" and not
        ENV C  'single' $A
        ENV D x=y
        """
    ),
    "ENV over several lines": on_base('ENV A=1 \\\n    B="two \\\n three" \\\n    C=3\n'),
    "ENV sees the values before its line": on_base("ENV A=1 B=2\nENV A=3 C=$A D=${B}x A=4 E=$A\n"),
    "LABEL with quotes": on_base(
        """
        LABEL a=1 "b c"="d e" f='g $PATH' h="i $A" j=
        LABEL a=2 k="over \\
        two lines"
        LABEL old form of it
        LABEL "com.example.vendor"="ACME Incorporated" version=1.0
        """
    ),
    "words that need quotes in JSON": on_base('CMD ["a b", "c\\"d", "e\\\\f", "\\u00e9", "$A", ""]\n'),
    "JSON that is not JSON is a command line": on_base(
        """
        CMD ['single', 'quotes']
        ENTRYPOINT ["a", "b"
        RUN [ -d /srv ] && echo [yes] >/out
        """
    ),
    "JSON with blanks and over lines": on_base('CMD  [ "a" , \\\n  "b" ]  \nENTRYPOINT ["x"]\n'),
    # here-documents
    "a here-document is a script": on_base(
        """
        RUN <<EOF
        echo one >/out
        echo "$HOME \\$HOME" >>/out
        false || echo two >>/out
        EOF
        """
    ),
    "a here-document with its interpreter": on_base(
        """
        RUN <<EOF
        #!/bin/busybox sh
        echo "by $0" | sed 's/[0-9a-f]\\{8,\\}//' >/out
        EOF
        """
    ),
    "a here-document as standard input": on_base(
        """
        ENV WHO=world
        RUN cat <<EOF >/out
        hello $WHO
        EOF
        RUN cat <<'EOF' >/raw
        hello $WHO
        EOF
        """
    ),
    "two here-documents in a command": on_base(
        """
        RUN cat <<ONE >/one && cat <<TWO >/two
        first
        ONE
        second
        TWO
        """
    ),
    "tabs before a here-document": Case(b"FROM base\nRUN cat <<-EOF >/out\n\tone\n\t\ttwo\n\tEOF\n"),
    "comments and continuations in a here-document": on_base(
        """
        RUN <<EOF
        # a comment
        echo a \\
          b >/out

        # escape=`
        EOF
        """
    ),
    "COPY of a here-document": on_base(
        """
        ENV WHO=world
        COPY <<EOF /etc/greeting
        hello ${WHO:-nobody} \\$WHO
          "quoted" 'single'
        EOF
        COPY <<"EOF" /etc/raw
        hello $WHO \\$WHO
        EOF
        COPY <<-'EOF' /etc/tabs
        \t\ttext
        \tEOF
        """
    ),
    "COPY of several here-documents": on_base(
        """
        COPY <<one.txt <<two.txt /srv/
        1
        one.txt
        2
        two.txt
        COPY a <<b /srv/both/
        of b
        b
        """,
        {"a": b"1"},
    ),
    "COPY of a here-document with owner and mode": on_base(
        """
        COPY --chown=web:web --chmod=0750 <<EOF /srv/new/script
        #!/bin/sh
        EOF
        """
    ),
    "ADD of a here-document": on_base("ADD <<EOF /srv/text\none\n\nEOF\n"),
    "an empty here-document": on_base("COPY <<EOF /empty\nEOF\n"),
    "a here-document in ONBUILD is refused or kept": on_base("ONBUILD RUN echo one >/out\n"),
    "two less-than signs that are not a here-document": on_base('RUN echo $((1<<3)) "a<<b" >/out\n'),
    # the order of options
    "options in any order": on_base("COPY --chmod=600 --chown=1:2 --link a /b\n", {"a": b"1"}),
    "ARG with several names": on_base('ARG A=1 B C="x y"\nRUN echo "$A|$B|$C" >/out\n', None, "--build-arg", "B=2"),
}
