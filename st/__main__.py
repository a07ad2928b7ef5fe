from st.cli import entry

entry()
