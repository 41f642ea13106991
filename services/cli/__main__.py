"""`python -m services.cli`: how one `weft` starts another, whatever PATH holds."""

from services.cli.entry import main

main()
