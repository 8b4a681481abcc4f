"""The same work done by this workbench and by the field's other tools, timed side by side."""
